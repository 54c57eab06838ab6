# needs: netns_name
# after: IPDB
from fastns import IPDB, NetNS

ipdb = IPDB(nl=NetNS('netns_name'))
# do some stuff within the netns
assert 'lo' in ipdb.interfaces
ipdb.release()
