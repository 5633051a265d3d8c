//! Command lines and environments in, plans out.
