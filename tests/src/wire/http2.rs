//! HTTP/2 by hand.
