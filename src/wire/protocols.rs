//! A list of protocol names as ALPN carries it (RFC 7301, section 3.1), in one piece of memory.

use std::fmt;

use smallvec::SmallVec;

/// Protocol names in a client's order, each 1 to 255 bytes of any value.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Protocols {
    /// Each name behind its length, as on the wire. What browsers offer (`h2` and `http/1.1`) takes no memory of its own.
    list: SmallVec<[u8; 16]>,
}

impl Protocols {
    /// Takes a list as it stands on the wire, without the length in front of it.
    ///
    /// # Errors
    /// [`Broken`].
    pub fn from_wire(list: &[u8]) -> Result<Protocols, Broken> {
        let mut rest = list;
        while let Some((&length, names)) = rest.split_first() {
            if length == 0 {
                return Err(Broken::Empty);
            }
            rest = names.get(usize::from(length)..).ok_or(Broken::Short)?;
        }
        Ok(Protocols { list: SmallVec::from_slice(list) })
    }

    /// Whether no protocol was named.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The names.
    pub fn iter(&self) -> Iter<'_> {
        Iter { rest: &self.list }
    }

    /// Keeps the first `count` names.
    pub fn truncate(&mut self, count: usize) {
        let kept: usize = self.iter().take(count).map(|name| 1 + name.len()).sum();
        if kept < self.list.len() {
            self.list.truncate(kept);
            self.list.shrink_to_fit();
        }
    }
}

/// What is wrong with a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// A name of no bytes.
    Empty,
    /// The list ends inside a name.
    Short,
}

/// The names of a list.
#[derive(Clone, Debug)]
pub struct Iter<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Iter<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (&length, names) = self.rest.split_first()?;
        let (name, rest) = names.split_at_checked(usize::from(length))?;
        self.rest = rest;
        Some(name)
    }
}

impl<'a> IntoIterator for &'a Protocols {
    type Item = &'a [u8];
    type IntoIter = Iter<'a>;

    fn into_iter(self) -> Iter<'a> {
        self.iter()
    }
}

/// For those who write lists down: names of more than 255 bytes are cut, empty ones left out.
impl<'a> FromIterator<&'a [u8]> for Protocols {
    fn from_iter<I: IntoIterator<Item = &'a [u8]>>(names: I) -> Protocols {
        let mut list = SmallVec::new();
        for name in names {
            let length = u8::try_from(name.len()).unwrap_or(u8::MAX);
            if length > 0 {
                list.push(length);
                list.extend_from_slice(name.get(..usize::from(length)).unwrap_or(name));
            }
        }
        Protocols { list }
    }
}

impl fmt::Debug for Protocols {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter().map(<[u8]>::escape_ascii).map(|name| name.to_string())).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_as_they_stand() {
        let list = Protocols::from_wire(b"\x02h2\x08http/1.1").unwrap();
        assert_eq!(list.iter().collect::<Vec<_>>(), [&b"h2"[..], b"http/1.1"]);
        assert_eq!(list, [&b"h2"[..], b"http/1.1"].into_iter().collect());
        assert!(Protocols::from_wire(b"").unwrap().is_empty());
        for (list, expected) in [
            (&b"\x03h2"[..], Broken::Short),
            (b"\x00", Broken::Empty),
            (b"\x02h2\x00", Broken::Empty),
            (b"\x01", Broken::Short),
        ] {
            assert_eq!(Protocols::from_wire(list), Err(expected), "{list:?}");
        }
    }

    #[test]
    fn a_long_list_is_cut_between_names() {
        let mut list = Protocols::from_wire(b"\x02h2\x01x\x03abc").unwrap();
        list.truncate(3);
        assert_eq!(list.iter().count(), 3);
        list.truncate(2);
        assert_eq!(list.iter().collect::<Vec<_>>(), [&b"h2"[..], b"x"]);
    }
}
