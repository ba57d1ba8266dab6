//! What a MySQL client can be told in place of a greeting (MySQL manual, "Client/Server Protocol": ERR_Packet).

/// An ERR packet, the first one of its connection: nothing is agreed on yet, so that it has no SQLSTATE in it.
pub fn refusal(code: u16, sentence: &str) -> Vec<u8> {
    let sentence = sentence.as_bytes();
    let [low, high] = code.to_le_bytes();
    let [a, b, c, _] = u32::try_from(sentence.len() + 3).unwrap_or(0).to_le_bytes();
    [&[a, b, c, 0, 0xff, low, high][..], sentence].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_clients_read_it() {
        assert_eq!(refusal(1040, "Too many"), b"\x0b\0\0\0\xff\x10\x04Too many");
    }
}
