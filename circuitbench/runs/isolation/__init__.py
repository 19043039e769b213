"""Methods in a process of their own: they send masks and receive damages, nothing else.

``nursery`` makes processes, ``guest`` is what runs in one, ``remote`` the oracle it holds;
``host`` stands for the method on our side and answers; ``channel`` and ``codec`` are what both
speak. See docs/isolation.md.
"""
