"""Candidates in a virtual machine: a lean kernel of our own making, with a driver and our agent.

`source` and `build` make the kernel, `initramfs` what it boots into, `machine` runs it, and
`link` is how a worker talks to the agent in it.  `places` says where all that is kept.
"""
