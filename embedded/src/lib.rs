//! One machine as a home: records and tiers in SQLite, blobs and logs in a folder, tasks as processes.
//!
//! [`home::Home`] opens a folder and puts the doors together; each other module is one door.

pub mod home;

mod alarm;
pub mod folder;
pub mod store;
pub mod ledger_sqlite;
mod brakes_sqlite;
mod depths_sqlite;
mod loans_sqlite;
mod unmapped_sqlite;
mod records_sqlite;
pub mod lanes_sqlite;
pub mod launcher_process;
mod places;
pub mod desk_local;
pub mod desk_socket;
pub mod blobs_folder;
pub mod logs_folder;
pub mod siding_folder;
pub mod herald_file;
