"""Kernels that torch lacks, compiled by LLVM for this CPU where llvmlite is installed."""
