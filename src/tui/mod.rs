//! The screen: a function of the app state.
