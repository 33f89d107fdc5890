//! Device-specific computation behind one seam: the networks of layer 2 call kernels and never ask which device they run on.

pub mod cpu;
