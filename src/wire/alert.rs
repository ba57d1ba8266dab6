//! TLS alerts sent in clear, before any key exists (RFC 8446, section 6).

/// Why a TLS client is refused, in the words TLS has for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Alert {
    /// A certificate has ended (RFC 8446, section 6.2).
    CertificateExpired = 45,
    /// The policy says no (RFC 8446, section 6.2).
    AccessDenied = 49,
    /// The message cannot be read.
    DecodeError = 50,
    /// Our side, or what stands behind it, cannot serve.
    InternalError = 80,
    /// No route has this name (RFC 6066, section 3).
    UnrecognizedName = 112,
}

impl Alert {
    /// One record: alert, TLS 1.2, two bytes, fatal, the description.
    pub const fn record(self) -> [u8; 7] {
        [21, 3, 3, 0, 2, 2, self as u8]
    }
}
