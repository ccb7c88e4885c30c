//! A ring buffer without allocation after construction.
use std::fmt::{self, Debug};
use std::mem::MaybeUninit;

pub struct Ring<T, const N: usize> {
    slots: [MaybeUninit<T>; N],
    head: usize,
    len: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PushError<T> {
    Full(T),
}

impl<T, const N: usize> Ring<T, N> {
    const CAPACITY_IS_POWER_OF_TWO: () = assert!(N.is_power_of_two(), "N must be a power of two");

    pub fn new() -> Self {
        let _ = Self::CAPACITY_IS_POWER_OF_TWO;
        Self { slots: std::array::from_fn(|_| MaybeUninit::uninit()), head: 0, len: 0 }
    }

    #[inline]
    fn index(&self, offset: usize) -> usize {
        (self.head + offset) & (N - 1)
    }

    pub fn push(&mut self, value: T) -> Result<usize, PushError<T>> {
        if self.len == N {
            return Err(PushError::Full(value));
        }
        let at = self.index(self.len);
        self.slots[at].write(value);
        self.len += 1;
        Ok(self.len)
    }

    pub fn pop(&mut self) -> Option<T> {
        if self.len == 0 {
            return None;
        }
        // SAFETY: slots from head to head + len are initialised; this one is given up by moving head on.
        let value = unsafe { self.slots[self.head].assume_init_read() };
        self.head = self.index(1);
        self.len -= 1;
        Some(value)
    }

    pub fn iter(&self) -> impl Iterator<Item = &T> + '_ {
        (0..self.len).map(move |offset| unsafe { self.slots[self.index(offset)].assume_init_ref() })
    }
}

impl<T, const N: usize> Drop for Ring<T, N> {
    fn drop(&mut self) {
        while self.pop().is_some() {}
    }
}

impl<T: Debug, const N: usize> Debug for Ring<T, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_wraps_around_and_keeps_the_order() {
        let mut ring: Ring<u32, 4> = Ring::new();
        for value in 1..=4 {
            assert_eq!(ring.push(value * 10), Ok(value as usize));
        }
        assert_eq!(ring.push(99), Err(PushError::Full(99)));
        assert_eq!(ring.pop(), Some(10));
        ring.push(50).unwrap();
        assert_eq!(ring.iter().copied().collect::<Vec<_>>(), vec![20, 30, 40, 50]);
    }
}
