//! What is compiled in: the functions that a catalog calls built-ins, and the machine's clock and chance. No program is
//! started here and no container, so that a Lambda function can run these and carry nothing of a worker.

pub mod addresses;
pub mod builtin;
mod http_check;
pub mod system;
