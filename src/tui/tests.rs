//! The screen from outside: keys in, pictures and messages out.

mod looks;
mod loops;
mod runs;
mod scripts;
mod terminal;
