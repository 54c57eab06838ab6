# needs: nsname
import subprocess

from fastns import NSPopen

nsp = NSPopen('nsname', ['ip', 'ad'], stdout=subprocess.PIPE)
print(nsp.communicate())
nsp.wait()
# checks
assert nsp.returncode == 0
nsp.release()
