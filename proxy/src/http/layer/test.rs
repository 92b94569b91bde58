//! What the layers are tested with.
