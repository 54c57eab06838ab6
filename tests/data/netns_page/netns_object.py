# needs: netns_name
from fastns import NetNS

ns = NetNS('netns_name')
# do some stuff within the netns
assert [link.get_attr('IFLA_IFNAME') for link in ns.get_links()] == ['lo']
ns.close()
