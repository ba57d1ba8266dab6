//! ClientHellos to try things out with: for tests, benches and fuzzing, not for traffic.
//!
//! They read well and route well, but no handshake can be finished with one: the key in it is noise.

use super::client_hello::MAX_RECORD;

/// What goes into a hello. The default has neither name nor protocols.
#[derive(Clone, Debug, Default)]
pub struct Sample<'a> {
    /// server_name, as it is to stand on the wire.
    pub name: Option<&'a [u8]>,
    /// ALPN.
    pub alpn: &'a [&'a str],
    /// Bytes in a padding extension (RFC 7685), 0 to 65,531 less the other extensions; 0: no such extension.
    pub padding: usize,
    /// Further extensions, in front of the others.
    pub extensions: &'a [(u16, &'a [u8])],
}

impl Sample<'_> {
    /// The hello on the wire, in records as large as they may be.
    pub fn wire(&self) -> Vec<u8> {
        records(&self.message(), MAX_RECORD)
    }

    /// The handshake message, without records.
    pub fn message(&self) -> Vec<u8> {
        let mut body = vec![3, 3];
        body.extend([0x5a; 32]);
        body.extend(list8(&[0xa5; 32]));
        body.extend(list16(&[0x13, 0x01, 0x13, 0x02, 0xc0, 0x2f]));
        body.extend(list8(&[0]));
        body.extend(list16(&self.all_extensions()));
        let length = u32::try_from(body.len()).expect("a body has less than 4 GiB").to_be_bytes();
        [&[1], &length[1..], &body].concat()
    }

    fn all_extensions(&self) -> Vec<u8> {
        let mut all = Vec::new();
        let mut add = |kind: u16, data: &[u8]| {
            all.extend(kind.to_be_bytes());
            all.extend(list16(data));
        };
        self.extensions.iter().for_each(|(kind, data)| add(*kind, data));
        if let Some(name) = self.name {
            add(0, &list16(&[&[0], &*list16(name)].concat()));
        }
        add(10, &list16(&[0x00, 0x1d]));
        add(13, &list16(&[0x04, 0x03, 0x08, 0x04]));
        if !self.alpn.is_empty() {
            let list: Vec<u8> = self.alpn.iter().flat_map(|protocol| list8(protocol.as_bytes())).collect();
            add(16, &list16(&list));
        }
        add(43, &list8(&[0x03, 0x04, 0x03, 0x03]));
        add(51, &list16(&[&[0x00, 0x1d], &*list16(&[0x77; 32])].concat()));
        if self.padding > 0 {
            add(21, &vec![0; self.padding]);
        }
        all
    }
}

/// A handshake message in records of `size` bytes each, the last one maybe shorter.
pub fn records(message: &[u8], size: usize) -> Vec<u8> {
    message.chunks(size).flat_map(|fragment| [&[22, 3, 1], &*list16(fragment)].concat()).collect()
}

/// The handshake message that stands in whole records.
pub fn unframe(mut wire: &[u8]) -> Vec<u8> {
    let mut message = Vec::new();
    while let Some((header, rest)) = wire.split_first_chunk::<5>() {
        let (fragment, rest) = rest.split_at(usize::from(u16::from_be_bytes([header[3], header[4]])));
        message.extend_from_slice(fragment);
        wire = rest;
    }
    message
}

fn list8(data: &[u8]) -> Vec<u8> {
    let length = u8::try_from(data.len()).expect("the list has at most 255 bytes");
    [&[length], data].concat()
}

fn list16(data: &[u8]) -> Vec<u8> {
    let length = u16::try_from(data.len()).expect("the list has at most 65,535 bytes");
    [&length.to_be_bytes(), data].concat()
}
