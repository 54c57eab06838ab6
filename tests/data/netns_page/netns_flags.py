import os

from fastns import NetNS

# create a new netns or fail, if it already exists
netns = NetNS('test', flags=os.O_CREAT | os.O_EXCL)
try:
    NetNS('test', flags=os.O_CREAT | os.O_EXCL)
except FileExistsError:
    pass
else:
    raise AssertionError('O_EXCL')
netns.close()
# create a new netns or use existing one
netns = NetNS('test', flags=os.O_CREAT)
netns.close()
# the same as above, the default behaviour
netns = NetNS('test')
netns.close()
netns.remove()
