"""What tests, demo and bench share: images made here, a real control plane, the ledger of kernel objects. No product code."""
