//! What the connections of one worker share.

use crate::{discover::Directory, http::peers::Peers, resources::Resources};
use remora_runtime::drain;
use std::rc::Rc;

/// All that a connection of this worker needs.
#[derive(Debug)]
pub(crate) struct World {
    pub resources: Rc<Resources>,
    pub directory: Directory,
    pub drain: drain::Watch,
    /// Who has HTTP/2 connections to this worker.
    pub peers: Peers,
}
