# needs: somenetns
# after: IPDB
from fastns import IPDB, NetNS

ip = IPDB(nl=NetNS('somenetns'))
ip.release()
