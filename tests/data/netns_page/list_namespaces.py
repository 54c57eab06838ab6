# needs: netns_name
from fastns import netns

netns.listnetns()
# checks
assert 'netns_name' in netns.listnetns()
