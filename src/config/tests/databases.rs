//! Listeners for databases, and what they ask of routes and pools.

use insta::assert_snapshot;

use super::{each, parse};

/// A listener for PostgreSQL with one endpoint, to which a case adds keys of the route and of the pool.
fn postgres(route: &str, pool: &str) -> String {
    format!(
        "[listener.pg]\nbind = '0.0.0.0:5432'\nprotocol = 'postgres'\n[route.pg]\nlistener = 'pg'\npool = 'pg'\n{route}\n\
         [pool.pg]\n{pool}\n"
    )
}

#[test]
fn what_postgres_asks_for() {
    const ONE: &str = "endpoints = '10.0.0.1:5432'";
    const TWO: &str = "endpoints = ['10.0.0.1:5432', '10.0.0.2:5432']";
    let cases = [
        ("passing through to one", postgres("", ONE)),
        ("to one and a backup", {
            postgres("", "endpoints = ['10.0.0.1:5432', { address = '10.0.0.2:5432', backup = true }]")
        }),
        ("to two", postgres("", TWO)),
        ("to two by client", postgres("", &format!("{TWO}\nbalance = 'maglev'"))),
        ("to two by client, within bounds", {
            postgres("", &format!("{TWO}\nbalance = 'maglev'\nhash_balance_factor = 150"))
        }),
        ("clear with a name", postgres("sni = 'db.test'\nalpn = 'postgresql'\nallow_cleartext = true", ONE)),
        ("not clear with a name", postgres("sni = 'db.test'\nallow_cleartext = false", ONE)),
        ("clear elsewhere", postgres("allow_cleartext = true", ONE).replace("'postgres'", "'tcp'")),
        ("TLS twice", postgres("", &format!("{ONE}\ntls = {{ name = 'db.test', negotiation = 'postgres' }}"))),
        ("TLS for those in clear", {
            postgres(
                "allow_cleartext = true",
                &format!("{ONE}\ntls = {{ name = 'db.test', negotiation = 'postgres' }}"),
            )
        }),
        ("TLS begun in no known way", {
            postgres("allow_cleartext = true", &format!("{ONE}\ntls = {{ name = 'db.test' }}"))
        }),
        ("begun in an unknown way", {
            postgres("allow_cleartext = true", &format!("{ONE}\ntls = {{ name = 'db.test', negotiation = 'late' }}"))
        }),
        ("TLS within MySQL", {
            let mysql = postgres("", &format!("{ONE}\ntls.name = 'db.test'"));
            mysql.replace("'postgres'", "'mysql'")
        }),
        ("names with MySQL", postgres("sni = 'db.test'", ONE).replace("'postgres'", "'mysql'")),
    ];
    let shown = each(&cases, str::to_owned);
    assert_snapshot!(shown, @r#"
    passing through to one
      fine
    to one and a backup
      fine
    to two
      fine
    to two by client
      fine
    to two by client, within bounds
      fine
    clear with a name
      main.toml:9:1: route.pg.allow_cleartext: clients without TLS have no sni, so none of them is ever led here (see main.toml:7:1)
      main.toml:9:1: route.pg.allow_cleartext: clients without TLS have no alpn, so none of them is ever led here (see main.toml:8:1)
    not clear with a name
      fine
    clear elsewhere
      main.toml:7:1: route.pg.allow_cleartext: the listener "pg" is not postgres (see main.toml:1:11)
    TLS twice
      main.toml:4:8: route.pg: TLS of clients passes through here, but the pool "pg" would put it into TLS once more; expected [route.pg.tls], or a pool without tls (see main.toml:8:7)
    TLS for those in clear
      fine
    TLS begun in no known way
      main.toml:4:8: route.pg: how TLS begins with servers of PostgreSQL is not said by the pool "pg"; expected negotiation = "postgres" in its tls, or "direct" where all servers are 17 or later (see main.toml:8:7)
    begun in an unknown way
      main.toml:4:8: route.pg: how TLS begins with servers of PostgreSQL is not said by the pool "pg"; expected negotiation = "postgres" in its tls, or "direct" where all servers are 17 or later (see main.toml:8:7)
      main.toml:10:41: pool.pg.tls.negotiation: "late" is not known; expected one of "postgres", "direct"
    TLS within MySQL
      main.toml:4:8: route.pg: TLS of MySQL begins in the middle of its protocol, so the pool "pg" cannot have its own (see main.toml:8:7)
    names with MySQL
      main.toml:7:1: route.pg.sni: the listener "pg" is mysql: it reads nothing of what clients send (see main.toml:1:11)
    "#);
    let warned = cases.iter().filter_map(|(case, text)| {
        let warnings = parse(text).ok()?.warnings;
        Some(format!("{case}\n  {}", warnings.first().map_or("nothing".into(), ToString::to_string)))
    });
    assert_snapshot!(warned.collect::<Vec<_>>().join("\n"), @r#"
    passing through to one
      nothing
    to one and a backup
      nothing
    to two
      main.toml:4:8: route.pg: a request to cancel a query that comes within TLS may reach another endpoint of the pool "pg" than the query; those in clear, and within TLS that ends here, reach all that it may be at
    to two by client
      nothing
    to two by client, within bounds
      main.toml:4:8: route.pg: a request to cancel a query that comes within TLS may reach another endpoint of the pool "pg" than the query; those in clear, and within TLS that ends here, reach all that it may be at
    not clear with a name
      nothing
    TLS for those in clear
      main.toml:7:1: route.pg.allow_cleartext: libpq does not log in by SCRAM without TLS to servers that offer to bind it to theirs, so clients in clear need another way (pg_hba.conf)
    "#);
}
