//! The PROXY protocol: who has to say whom it speaks for, and what endpoints are told.

use ipnet::IpNet;

/// `listener.proxy_from`: whose connections begin with a PROXY header.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProxyFrom {
    /// Whoever connects from one of these networks.
    pub networks: Vec<IpNet>,
    /// Whoever connects to a unix socket.
    pub unix: bool,
}

/// `pool.send_proxy`: what endpoints are told of a client before anything else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendProxy {
    /// Its address, in a header of version 1.
    V1,
    /// Its address and more, in a header of version 2.
    V2(SentTlvs),
}

/// `pool.send_proxy_tlvs`: what a header of version 2 has besides addresses, as far as it is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SentTlvs {
    /// The protocol that was agreed on where TLS ends here.
    pub alpn: bool,
    /// The name in the ClientHello.
    pub authority: bool,
    /// A checksum.
    pub crc32c: bool,
    /// What a header in front of the client's bytes had.
    pub relayed: bool,
    /// The client's TLS where it ends here.
    pub ssl: bool,
    /// Number and start of the session.
    pub unique_id: bool,
}

impl SentTlvs {
    /// All that there are.
    pub const ALL: SentTlvs =
        SentTlvs { alpn: true, authority: true, crc32c: true, relayed: true, ssl: true, unique_id: true };
}
