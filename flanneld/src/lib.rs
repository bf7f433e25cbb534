//! flanneld
