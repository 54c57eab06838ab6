# needs: netns_name
# after: IPDB
from fastns import IPDB

ipdb = IPDB()
ipdb.create(ifname='v0p0', kind='veth', peer='v0p1').commit()
with ipdb.interfaces.v0p1 as i:
    i.net_ns_fd = 'netns_name'
# checks
from fastns import NetNS

with NetNS('netns_name') as ns:
    assert len(ns.link_lookup(ifname='v0p1')) == 1
ipdb.interfaces.v0p0.remove().commit()
ipdb.release()
