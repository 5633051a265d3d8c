//! A cluster behind a socket, for many viewers and more nodes than one viewer should link to.
