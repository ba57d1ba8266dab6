//! The health of one endpoint, told what probes and its agent find.

use super::*;
use crate::config::model::Address;
use crate::observe::metrics::Metrics;

fn health(table: &str) -> Health {
    health_of("10.0.0.1:1", table)
}

/// The health of an endpoint that is written like this, with this table.
pub(super) fn health_of(endpoint: &str, table: &str) -> Health {
    let text = format!(
        "[listener.a]\nbind = '127.0.0.1:0'\n[route.a]\nlistener = 'a'\npool = 'a'\n[pool.a]\nendpoints = '{endpoint}'\n\
         health = {{ {table} }}"
    );
    let config = crate::config::parse_str("a.toml".as_ref(), &text).unwrap_or_else(|problems| panic!("{problems}"));
    let pool = &config.config.pools[0];
    let metrics = Metrics::new().health("a", endpoint);
    let host = match &pool.endpoints[0].address {
        Address::Host { host, .. } => Some(host.as_str().into()),
        _ => None,
    };
    Health::new(pool.health.as_ref().unwrap(), host, metrics)
}

/// What is found at this second of the epoch.
fn find(health: &Health, at: u64, finding: Finding) -> Option<Standing> {
    health.observe("a", "10.0.0.1:1", &finding, SystemTime::UNIX_EPOCH + Duration::from_secs(at))
}

fn probe(observation: verdict::Observation) -> Finding {
    Finding::Probe(Found::plain(observation, Duration::from_millis(3)))
}

fn pass() -> Finding {
    probe(verdict::Observation::Pass("connected".into()))
}

fn refuse() -> Finding {
    probe(verdict::Observation::Refused("HTTP 503".into()))
}

fn miss() -> Finding {
    probe(verdict::Observation::Missing("no answer in 2s".into()))
}

fn say(line: &str) -> Finding {
    Finding::Agent(probe::agent::parse(line.as_bytes()).unwrap())
}

#[test]
fn it_is_up_only_if_both_say_so() {
    let health = health("probe = 'tcp', rise = 1, fall = 1, agent.port = 9");
    assert_eq!(health.standing(), Standing::Unknown);
    for (at, case, finding, changed, refused) in [
        (1, "the agent alone is not enough", say("up"), None, false),
        (2, "both", pass(), Some(Standing::Up), false),
        (3, "the agent says down", say("down"), Some(Standing::Down), true),
        (4, "however well it looks", pass(), None, true),
        (5, "the agent says up", say("up"), Some(Standing::Up), false),
        (6, "it does not answer", miss(), Some(Standing::Down), false),
        (7, "down twice", say("stopped"), None, true),
        (8, "up for the agent", say("up"), None, false),
        (9, "and for the probe", pass(), Some(Standing::Up), false),
        (10, "a definite answer", refuse(), Some(Standing::Down), true),
    ] {
        assert_eq!(find(&health, at, finding), changed, "{case}");
        assert_eq!(health.was_refused(), refused, "{case}");
    }
}

#[test]
fn an_agent_alone_has_an_endpoint_up_until_it_says_otherwise() {
    let health = health("agent.port = 9");
    let state = || (health.standing(), health.is_draining(), health.is_maint(), health.weight_percent());
    assert_eq!(state(), (Standing::Up, false, false, 100));
    for (line, wanted) in [
        ("75%", (Standing::Up, false, false, 75)),
        ("drain", (Standing::Up, true, false, 75)),
        ("maint 100%", (Standing::Up, false, true, 100)),
        ("down", (Standing::Down, false, true, 100)),
        ("up", (Standing::Up, false, false, 100)),
    ] {
        find(&health, 1, say(line));
        assert_eq!(state(), wanted, "{line}");
    }
}

#[test]
fn what_was_found_last_is_reported() {
    let health = health("probe = 'tcp', agent.port = 9");
    let report = health.report();
    assert_eq!((report.standing, report.last, report.agent), (Standing::Unknown, None, None));
    find(&health, 10, pass());
    find(&health, 20, miss());
    find(&health, 21, say("up 50%"));
    let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    let wanted = Report {
        standing: Standing::Up,
        since: at(10),
        last: Some("no answer in 2s".into()),
        last_at: Some(at(20)),
        took: Duration::from_millis(3),
        role: None,
        agent: Some("up 50%".into()),
    };
    assert_eq!(health.report(), wanted);
}

#[test]
fn a_server_is_taken_at_its_word() {
    use model::Role::{Primary, Replica};
    let health = health("probe = 'postgres', user = 'probe', role = 'primary', rise = 2, fall = 2");
    let unclear = || probe(verdict::Observation::Unclear("full".into()));
    for (at, case, finding, standing, role, claims) in [
        (1, "nothing was ever said", miss(), Standing::Down, None, false),
        (2, "one pass is a word, but not enough", Finding::of_server(Primary), Standing::Down, Some(Primary), true),
        (3, "it may still be there", miss(), Standing::Down, Some(Primary), true),
        (4, "it is not", miss(), Standing::Down, Some(Primary), false),
        (5, "back", Finding::of_server(Primary), Standing::Down, Some(Primary), true),
        (6, "and up", Finding::of_server(Primary), Standing::Up, Some(Primary), true),
        (7, "too busy to say", unclear(), Standing::Up, Some(Primary), true),
        (8, "silent", miss(), Standing::Up, Some(Primary), true),
        (9, "down", miss(), Standing::Down, Some(Primary), false),
        (10, "what is unclear is no claim, nor a role", unclear(), Standing::Down, None, false),
        (11, "another role", Finding::of_server(Replica), Standing::Down, Some(Replica), false),
        (12, "promoted", Finding::of_server(Primary), Standing::Down, Some(Primary), true),
        (13, "it says that it does not serve", refuse(), Standing::Down, Some(Primary), false),
    ] {
        find(&health, at, finding);
        assert_eq!((health.standing(), health.role(), health.claims_primary()), (standing, role, claims), "{case}");
        assert_eq!(health.has_role(), role == Some(Primary), "{case}");
    }
}

#[test]
fn who_lets_no_probe_in_gives_way() {
    let health = || {
        let health = health("probe = 'postgres', user = 'probe', role = 'primary', rise = 1, fall = 2");
        find(&health, 1, Finding::of_server(Role::Primary));
        health
    };
    let barred = || probe(verdict::Observation::Unclear("cannot log in".into()));
    let full = || Finding::Probe(Found::full());
    type Case = (&'static str, Vec<Finding>, bool, bool);
    let cases: [Case; 6] = [
        ("barred once", vec![barred()], true, true),
        ("barred for long", vec![barred(), barred()], true, false),
        ("full for long", vec![full(), full(), full()], true, true),
        ("away and barred", vec![miss(), barred()], true, true),
        ("away and barred for long", vec![miss(), barred(), barred()], false, false),
        ("away and back", vec![miss(), Finding::of_server(Role::Primary), barred(), barred()], true, false),
    ];
    for (case, findings, has_role, claims) in cases {
        let health = health();
        for finding in findings {
            find(&health, 2, finding);
        }
        assert_eq!((health.has_role(), health.claims_primary()), (has_role, claims), "{case}");
        assert_eq!(health.standing(), Standing::Up, "{case}");
        find(&health, 3, Finding::of_server(Role::Primary));
        assert!(health.has_role() && health.claims_primary(), "{case}, and in again");
    }
}

#[tokio::test]
async fn who_is_not_there_is_found_out_without_a_password() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = Target::Ip(listener.local_addr().unwrap());
    let call = probe::Call { target, source: None, preface: &[], patience: Duration::from_secs(10) };
    let found = async |table: &str| {
        let health = health(&format!("{table}, user = 'probe', password_file = '/nowhere/secret'"));
        let dialogue = health.settings.dialogue.clone().unwrap();
        let (found, _) = probe::run(&call, &dialogue, "", None, &mut None).await.unwrap();
        found.judge(&health.settings.expect)
    };
    for table in ["probe = 'postgres'", "probe = 'redis'"] {
        let observation = found(table).await;
        let why = "cannot log in: \"/nowhere/secret\" cannot be read: No such file or directory (os error 2)";
        assert_eq!(observation, verdict::Observation::Unclear(why.into()), "{table}");
    }
    drop(listener);
    for table in ["probe = 'postgres'", "probe = 'redis'", "probe = 'mysql'"] {
        let observation = found(table).await;
        assert!(matches!(observation, verdict::Observation::Missing(_)), "{table}: {observation:?}");
    }
}

#[test]
fn what_cannot_be_probed_holds_and_is_told() {
    let health = health("probe = 'tcp'");
    find(&health, 1, pass());
    health.cannot_probe("no descriptor is left", SystemTime::UNIX_EPOCH + Duration::from_secs(2));
    let report = health.report();
    assert_eq!((report.standing, report.last.as_deref()), (Standing::Up, Some("cannot probe: no descriptor is left")));
}

#[test]
fn a_query_that_fails_leaves_the_claim() {
    let health = health("probe = 'postgres', user = 'probe', role = 'primary', query = 'SELECT 1', fall = 2");
    let failed = || Finding::Probe(Found::failed_as(Role::Primary, verdict::Observation::Refused("no row".into())));
    find(&health, 1, Finding::of_server(Role::Primary));
    for at in 2..6 {
        find(&health, at, failed());
        assert_eq!((health.standing(), health.claims_primary()), (Standing::Down, true), "{at}");
        assert!(health.was_refused() && health.has_role());
    }
    find(&health, 6, refuse());
    assert!(!health.claims_primary(), "it has not told anything");
}

#[test]
fn a_replica_that_only_lags_is_told_from_one_that_must_not_serve() {
    use model::Role::{Primary, Replica};
    let health = health(
        "probe = 'postgres', user = 'probe', role = 'replica', max_lag = '1s', rise = 1, fall = 1, agent.port = 9",
    );
    let lag = |millis| Finding::of_replica(Duration::from_millis(millis));
    for (at, case, finding, refused, only_lags) in [
        (1, "near enough", lag(1000), false, false),
        (2, "too far", lag(1001), true, true),
        (3, "that it is silent now is another matter", miss(), true, true),
        (4, "its agent says down", say("down"), true, false),
        (5, "and no longer", say("up"), true, true),
        (6, "promoted", Finding::of_server(Primary), true, false),
        (7, "demoted, and nobody knows how far it is behind", Finding::of_server(Replica), true, true),
        (8, "another definite answer", refuse(), true, false),
        (9, "too far again", lag(2000), true, true),
        (10, "it has caught up", lag(10), false, false),
        (11, "it is silent", miss(), false, false),
    ] {
        find(&health, at, finding);
        assert_eq!((health.was_refused(), health.only_lags()), (refused, only_lags), "{case}");
    }
}

#[test]
fn a_certificate_is_told_of_with_the_probe() {
    let health = health("probe = 'tls'");
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(86_400 * 30);
    let mut found = Found::plain(verdict::Observation::Pass("TLS 1.3".into()), Duration::ZERO);
    found.expires = Some(at);
    find(&health, 86_400, Finding::Probe(found));
    assert_eq!(health.report().last.as_deref(), Some("TLS 1.3; certificate expires in 29 days, on 1970-01-31"));
}

#[test]
fn probes_and_agents_go_where_they_are_sent() {
    let (ip, unix) = (Target::Ip("10.0.0.1:1".parse().unwrap()), Target::Unix("/run/x".into()));
    let at = |address: &str| Target::Ip(address.parse().unwrap());
    for (table, of_ip, of_unix, agent) in [
        ("", ip.clone(), unix.clone(), Some(at("10.0.0.1:9"))),
        ("port = 2", at("10.0.0.1:2"), unix.clone(), Some(at("10.0.0.1:9"))),
        ("address = '10.0.0.7'", at("10.0.0.7:1"), unix.clone(), Some(at("10.0.0.7:9"))),
        ("address = '::7', port = 2", at("[::7]:2"), at("[::7]:2"), Some(at("[::7]:9"))),
    ] {
        let comma = if table.is_empty() { "" } else { "," };
        let health = health(&format!("probe = 'tcp', agent.port = 9 {comma} {table}"));
        assert_eq!((health.probed(&ip), health.probed(&unix)), (of_ip, of_unix), "{table}");
        let settings = health.settings.agent.clone().unwrap();
        assert_eq!(health.agent_at(&ip, &settings), agent, "{table}");
    }
    let health = health("agent.port = 9");
    assert_eq!(health.agent_at(&unix, health.settings.agent.as_ref().unwrap()), None);
}
