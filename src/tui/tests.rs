//! The screen from outside: keys in, pictures and messages out.

mod looks;
mod loops;
mod scripts;
mod terminal;
