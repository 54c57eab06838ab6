from fastns import NetNS

netns = NetNS('test')
netns.close()
netns.remove()
# checks
from fastns.netns import listnetns

assert listnetns() == []
