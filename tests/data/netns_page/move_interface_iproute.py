# needs: netns_name
from fastns import IPRoute

ipr = IPRoute()
ipr.link('add', ifname='v0p0', kind='veth', peer='v0p1')
idx = ipr.link_lookup(ifname='v0p1')[0]
ipr.link('set', index=idx, net_ns_fd='netns_name')
# checks
assert ipr.link_lookup(ifname='v0p1') == []
from fastns import NetNS

with NetNS('netns_name') as ns:
    assert len(ns.link_lookup(ifname='v0p1')) == 1
ipr.link('del', ifname='v0p0')
ipr.close()
