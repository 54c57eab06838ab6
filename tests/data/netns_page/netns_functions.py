import os

from fastns import netns

netns.create('test')
assert netns.listnetns() == ['test']
before = os.stat('/proc/thread-self/ns/net').st_ino
here = os.open('/proc/thread-self/ns/net', os.O_RDONLY)
netns.setns('test')
assert os.stat('/proc/thread-self/ns/net').st_ino != before
netns.setns(here)
assert os.stat('/proc/thread-self/ns/net').st_ino == before
netns.setns('foo', flags=os.O_CREAT)
netns.setns(here)
try:
    netns.setns('foo', flags=os.O_CREAT | os.O_EXCL)
except FileExistsError:
    pass
else:
    raise AssertionError('O_EXCL')
assert os.stat('/proc/thread-self/ns/net').st_ino == before
os.close(here)
netns.remove('test')
netns.remove('foo')
assert netns.listnetns() == []
