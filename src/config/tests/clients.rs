//! What is said of `[route.NAME.tls.client]`.

use insta::assert_snapshot;
use rcgen::{
    CertificateParams, CertificateRevocationListParams, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    date_time_ymd,
};

use super::tls::Node;
use super::{parse, replaced};

#[test]
fn the_table() {
    let whole =
        |keys: &str| format!("pool = \"web\"\n[route.www.tls]\ncertificates = '/x'\n[route.www.tls.client]\n{keys}");
    let cases = [
        ("nothing", ""),
        ("no authorities", "ca = []"),
        ("words", "ca = '/x'\nverify = 'require'"),
        ("twice", "ca = ['/x', '/x']"),
        ("about lists where there are none", "ca = '/x'\ncrl_check = 'leaf'\nexpired_crl = 'use'"),
        ("no lists", "ca = '/x'\ncrl = []"),
        ("good", "ca = '/x'\ncrl = '/y'\ncrl_check = 'leaf'\nexpired_crl = 'use'\nverify = 'optional'"),
    ];
    assert_snapshot!(replaced("pool = \"web\"", &cases.map(|(case, keys)| (case, whole(keys)))), @r#"
    nothing
      main.toml:10:16: route.www.tls.client.ca: the key is missing; expected the absolute path of a file of certificates in PEM
    no authorities
      main.toml:11:6: route.www.tls.client.ca: without any authority no certificate could be verified
    words
      main.toml:12:10: route.www.tls.client.verify: "require" is not known; expected one of "required", "optional"; did you mean "required"?
    twice
      main.toml:11:13: route.www.tls.client.ca[1]: "/x" is listed twice (see main.toml:11:7)
    about lists where there are none
      main.toml:12:1: route.www.tls.client.crl_check: there are no lists of revoked certificates; expected crl
      main.toml:13:1: route.www.tls.client.expired_crl: there are no lists of revoked certificates; expected crl
    no lists
      main.toml:12:7: route.www.tls.client.crl: an empty list says nothing; leave the key out where nothing is ever revoked
    good
      fine
    "#);
}

#[test]
fn what_is_read() {
    let read = |keys: &str| {
        let client = format!("[route.www.tls]\ncertificates = '/x'\n[route.www.tls.client]\nca = '/a'\n{keys}");
        let config = parse(&format!("{}{client}", super::GOOD)).unwrap().config;
        config.routes[0].tls.clone().unwrap().clients.unwrap().rules().clone()
    };
    let rules = read("");
    assert!(rules.required && rules.whole_chain && rules.refuses_by_expired_lists);
    let rules = read("crl = ['/b', '/c']\ncrl_check = 'leaf'\nexpired_crl = 'use'\nverify = 'optional'");
    assert!(!rules.required && !rules.whole_chain && !rules.refuses_by_expired_lists);
    assert_eq!((rules.ca.len(), rules.crl.len()), (1, 2));
}

/// An authority of this name and a list of its that ends in this year, in PEM.
fn authority(name: &str, end: i32) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let certificate = params.self_signed(&key).unwrap();
    let list = CertificateRevocationListParams {
        this_update: date_time_ymd(2020, 1, 1),
        next_update: date_time_ymd(end, 1, 1),
        crl_number: 1.into(),
        issuing_distribution_point: None,
        revoked_certs: Vec::new(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    let list = list.signed_by(&Issuer::new(params, key)).unwrap();
    (certificate.pem(), list.pem().unwrap())
}

#[test]
fn files_are_checked() {
    let (one, list) = authority("one", 2021);
    let (other, _) = authority("other", 2090);
    let keys = |client: &str| format!("certificates = 'DIR/a.pem'\n[route.www.tls.client]\n{client}");
    let node = |client: &str| {
        let node = Node::new("'a.example'", &keys(client)).with("a.pem", "a.example", Ok(2090));
        node.file("ca.pem", &(one.clone() + &other)).file("list.crl", &list).file("bad", "bad")
    };
    let bad = node("ca = ['DIR/bad', 'DIR/none']\ncrl = ['DIR/bad', 'DIR/ca.pem']");
    assert_snapshot!(bad.load().unwrap_err(), @r#"
    main.toml:13:7: route.www.tls.client.ca[0]: "bad" has no certificate in PEM
    main.toml:13:30: route.www.tls.client.ca[1]: "none" cannot be read: No such file or directory (os error 2)
    main.toml:14:8: route.www.tls.client.crl[0]: "bad" has no list of revoked certificates (CRL) in PEM or DER that can be read
    main.toml:14:31: route.www.tls.client.crl[1]: "ca.pem" has no list of revoked certificates (CRL) in PEM or DER that can be read
    "#);
    assert_snapshot!(node("ca = 'DIR/ca.pem'\ncrl = 'DIR/list.crl'").warned(), @r#"
    main.toml:14:7: route.www.tls.client.crl: "list.crl": the list of revoked certificates has expired on 2021-01-01; its clients are refused
    main.toml:14:7: route.www.tls.client.crl: there is no list of the authority "CN=other", so that the certificates that it has issued are refused
    "#);
    assert_snapshot!(
        node("ca = 'DIR/ca.pem'\ncrl = 'DIR/list.crl'\ncrl_check = 'leaf'\nexpired_crl = 'use'").warned(),
        @r#"
    main.toml:14:7: route.www.tls.client.crl: "list.crl": the list of revoked certificates has expired on 2021-01-01; it is used all the same
    "#
    );
    assert_eq!(node("ca = 'DIR/ca.pem'").warned(), "");
}
