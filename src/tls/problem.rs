//! What can be wrong with the files of certificates.

use std::path::PathBuf;

/// What is wrong with one file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file:?} {flaw}")]
pub(crate) struct Problem {
    /// The file, or the folder.
    pub(crate) file: PathBuf,
    /// What is wrong with it.
    pub(crate) flaw: Flaw,
}

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Flaw {
    /// The system does not let us read it.
    #[error("cannot be read: {0}")]
    Unreadable(String),
    /// A folder that has no certificates in it.
    #[error("has no certificates in it; expected files that end in .pem or .crt")]
    Empty,
    /// Broken PEM, perhaps cut off.
    #[error("is not whole PEM")]
    Pem,
    /// PEM without a certificate.
    #[error("has no certificate in PEM")]
    NoCertificate,
    /// A certificate in PEM that is none.
    #[error("has a certificate that cannot be read")]
    Certificate,
    /// The certificate has no name that a client can ask for, and no address that it can connect to.
    #[error("has a certificate without a usable name; expected a host name among its alternative names")]
    NoName,
    /// Neither the file of the certificate nor the one of its key has a key.
    #[error("has no private key, and the file {0:?} is not there")]
    NoKeyFile(PathBuf),
    /// The file of the key has none.
    #[error("has no private key in PEM")]
    NoKey,
    /// It is not clear which key belongs to the certificate.
    #[error("has more than one private key")]
    SeveralKeys,
    /// The key can only be read with a pass phrase.
    #[error("has a private key that is encrypted; expected one without a pass phrase")]
    Encrypted,
    /// A broken key, or one of a kind that TLS or we do not know.
    #[error(
        "has a private key that cannot be used; expected RSA of 2048 to 8192 bits, ECDSA on P-256, P-384 or P-521, \
         or Ed25519"
    )]
    Key,
    /// The key in the file of the certificate is that of another one.
    #[error("has a private key that is not the one of its certificate")]
    Mismatch,
    /// The key is that of another certificate.
    #[error("is not the key of the certificate {0:?}")]
    KeyOfAnother(PathBuf),
    /// A certificate in a file of authorities by which nothing can be verified.
    #[error("has a certificate that cannot be used to verify others: it is number {0}")]
    Authority(usize),
    /// A file of lists of revoked certificates that has none.
    #[error("has no list of revoked certificates (CRL) in PEM or DER that can be read")]
    NoList,
    /// A list without extensions, as openssl makes it where no file counts lists.
    #[error("is a list of version 1; expected version 2 (openssl ca -gencrl makes it where crlnumber is set)")]
    OldList,
    /// A list of a kind that we cannot go by.
    #[error("cannot be used: {0}")]
    Unusable(String),
    /// An OCSP response that is none, or says that it failed.
    #[error("is not a successful OCSP response in DER; the certificate is used without it")]
    Staple,
    /// An OCSP response about another certificate.
    #[error("is not the OCSP response of the certificate {0:?}, which is used without it")]
    StapleOfAnother(PathBuf),
    /// An OCSP response that is out of date.
    #[error("is an OCSP response that has expired; the certificate is used without it")]
    StapleExpired,
}

impl Problem {
    /// Whether the certificate can be used all the same.
    pub(crate) fn is_minor(&self) -> bool {
        matches!(self.flaw, Flaw::Staple | Flaw::StapleOfAnother(_) | Flaw::StapleExpired)
    }
}
