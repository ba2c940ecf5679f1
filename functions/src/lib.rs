//! The yard's Lambda functions.
