"""The kernel's own calls behind Python names: system calls, netlink, safe paths. No policy, no product words."""
