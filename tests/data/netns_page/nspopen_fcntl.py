# needs: test
from fcntl import F_GETFL
from subprocess import PIPE

from fastns import NSPopen

proc = NSPopen('test', ['true'], stdout=PIPE)
flags = proc.stdout.fcntl(F_GETFL)
# checks
import fcntl
import os

assert flags == fcntl.fcntl(proc.stdout.fileno(), F_GETFL)
assert flags & os.O_ACCMODE == os.O_RDONLY
assert proc.communicate() == (b'', None)
proc.release()
try:
    proc.pid
except RuntimeError:
    pass
else:
    raise AssertionError('usable after release')
