//! Taking a lock, whatever became of who held it before.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// A panic elsewhere costs its own task; what is behind these locks is whole between any two statements.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
