//! What a MySQL server is asked once we are in.

use std::time::{Duration, Instant};

use super::over::Over;
use super::session::Session;
use crate::config::model::{MysqlProbe, Role};
use crate::health::probe::server::Answer;
use crate::health::verdict::Observation;
use crate::wire::mysql::{Greeting, Reply, ResultSet};

/// innodb_read_only is what tells a reader of Aurora. Not every server has it.
pub(super) const ROLE: [&str; 2] =
    ["SELECT @@global.read_only, @@global.innodb_read_only", "SELECT @@global.read_only"];
pub(super) const GALERA: &str = "SHOW GLOBAL STATUS WHERE Variable_name IN ('wsrep_ready', 'wsrep_local_state')";
pub(super) const ALL_REPLICAS: &str = "SHOW ALL SLAVES STATUS";
pub(super) const REPLICA: &str = "SHOW REPLICA STATUS";
pub(super) const SLAVE: &str = "SHOW SLAVE STATUS";
/// The first MySQL that knows [`REPLICA`]; 8.4 does not know [`SLAVE`] any more.
const KNOWS_REPLICA: [u32; 3] = [8, 0, 22];
/// wsrep_local_state of a node that has everything that the cluster has.
const SYNCED: &str = "4";
/// Errors of a server that does not know a statement, or what it asks for.
const UNKNOWN: [u16; 2] = [1064, 1193];
/// How old a role may be that is told.
const FRESH: Duration = Duration::from_secs(1);
/// The longest version that is told, in characters.
const LONGEST_VERSION: usize = 24;

/// Asks everything that there is to ask.
///
/// # Errors
/// The first answer that speaks against the endpoint, whatever a pool wants of it, unless it has told its role by then.
pub(super) async fn ask(session: &mut Session, greeting: &Greeting, probe: &MysqlProbe) -> Result<Answer, Over> {
    let mut answer = Answer::of(name(greeting));
    // First, for a node that is not ready answers nothing but this.
    if probe.galera {
        session.wait_for("no answer about Galera");
        galera(&rows(session.query(GALERA).await?)?)?;
    }
    session.wait_for("no answer about its role");
    let role = role(&first_known(session, &ROLE).await?)?;
    answer.role = Some(role);
    let told = Instant::now();
    match ask_more(session, greeting, probe, &mut answer).await {
        // The other answers may have come after their probe was over, and then so much later.
        Ok(()) if told.elapsed() > FRESH => {
            session.wait_for("no answer about its role");
            answer.role = Some(self::role(&first_known(session, &ROLE).await?)?);
            Ok(answer)
        }
        Ok(()) => Ok(answer),
        Err(Over::Gone(why)) => Err(Over::Gone(why)),
        Err(Over::Full(text)) => Ok(Answer { role: Some(role), ..Answer::full(text) }),
        Err(Over::Told(why)) => Ok(answer.broken_off(why)?),
    }
}

/// What is asked of a server whose role is known.
async fn ask_more(
    session: &mut Session,
    greeting: &Greeting,
    probe: &MysqlProbe,
    answer: &mut Answer,
) -> Result<(), Over> {
    if probe.asks_lag && answer.role == Some(Role::Replica) {
        session.wait_for("no answer about its lag");
        match lag(&first_known(session, statements(greeting)).await?)? {
            Ok(lag) => (answer.lag, answer.keeps_lag) = (lag, true),
            Err(why) => answer.unknown = Some(why),
        }
    }
    if let Some(query) = &probe.query {
        session.wait_for("no answer to the query");
        let result = rows(session.query(query).await?)?;
        let row = result.rows.first().ok_or_else(|| Over::refused("the query gave no row"))?;
        let value = row.first().and_then(Option::as_deref);
        answer.value = value.map(|value| String::from_utf8_lossy(value).into_owned());
    }
    Ok(())
}

/// The rows that the first of these statements gives that the server knows.
async fn first_known(session: &mut Session, statements: &[&str]) -> Result<ResultSet, Over> {
    let mut reply = Reply::Done;
    for statement in statements {
        reply = session.query(statement).await?;
        if !matches!(&reply, Reply::Error(error) if UNKNOWN.contains(&error.code)) {
            break;
        }
    }
    rows(reply)
}

fn rows(reply: Reply) -> Result<ResultSet, Over> {
    match reply {
        Reply::Rows(rows) => Ok(rows),
        Reply::Error(error) => Err(error.into()),
        Reply::Done => Err(Over::refused("the query gave no row")),
    }
}

/// How the state of replication is asked for, best first.
fn statements(greeting: &Greeting) -> &'static [&'static str] {
    match (greeting.is_mariadb(), greeting.numbers() < KNOWS_REPLICA) {
        (true, _) => &[ALL_REPLICAS, SLAVE],
        (false, true) => &[SLAVE, REPLICA],
        (false, false) => &[REPLICA, SLAVE],
    }
}

/// Whether the node belongs to its cluster and has everything. One that gives its state to another (2, Donor) may fall
/// behind, so that it is left alone, as clustercheck does.
fn galera(status: &ResultSet) -> Result<(), Over> {
    let value = |name: &str| {
        let is = |row: &&Vec<Option<Vec<u8>>>| text(row, 0).is_some_and(|found| found.eq_ignore_ascii_case(name));
        status.rows.iter().find(is).and_then(|row| text(row, 1))
    };
    match (value("wsrep_ready").as_deref(), value("wsrep_local_state").as_deref()) {
        (Some("ON"), Some(SYNCED)) => Ok(()),
        (None, _) => Err(Over::refused("it has no Galera (wsrep_ready)")),
        (Some("ON"), state) => Err(Over::refused(format!("not synced with its cluster: {}", word(state)))),
        (Some(_), state) => Err(Over::refused(format!("not ready for its cluster: {}", word(state)))),
    }
}

/// What Galera calls a state.
fn word(state: Option<&str>) -> String {
    match state {
        Some("1") => "Joining".to_owned(),
        Some("2") => "Donor".to_owned(),
        Some("3") => "Joined".to_owned(),
        Some(SYNCED) => "Synced".to_owned(),
        Some(other) => format!("state {other:?}"),
        None => "no state".to_owned(),
    }
}

/// A server that takes no writes is a replica. read_only is 0 or 1, and has words in newer versions of MariaDB.
fn role(variables: &ResultSet) -> Result<Role, Over> {
    let row = variables.rows.first().filter(|row| !row.is_empty());
    let row = row.ok_or_else(|| Over::refused("it does not say whether it is read-only"))?;
    let writes = (0..row.len()).all(|at| matches!(text(row, at).as_deref(), Some("0" | "OFF")));
    Ok(if writes { Role::Primary } else { Role::Replica })
}

/// How far a replica is behind the one of its sources that it is behind the most; `None`: it does not know now, as it
/// follows nobody, or does not get anything from one (which may be gone), or was told not to apply it. The inner error:
/// it cannot go on by itself.
fn lag(status: &ResultSet) -> Result<Result<Option<Duration>, Observation>, Over> {
    let (mut most, mut is_known) = (None, true);
    for row in &status.rows {
        let channel = ["Channel_Name", "Connection_name"].iter().find_map(|name| status.value(row, name)).flatten();
        // Those of group replication say nothing of how far it is behind.
        if channel.is_some_and(|channel| channel.starts_with(b"group_replication_")) {
            continue;
        }
        let seconds = ["Seconds_Behind_Source", "Seconds_Behind_Master"].iter();
        let seconds = seconds.clone().find_map(|name| status.value(row, name));
        let Some(seconds) = seconds else { return Err(Over::refused("it does not say how far it is behind")) };
        if let Some(code) = halted(status, row) {
            return Ok(Err(Observation::Refused(format!("its replication has stopped: error {code}").into())));
        }
        let seconds = seconds.and_then(|seconds| std::str::from_utf8(seconds).ok()?.parse().ok());
        is_known &= seconds.is_some();
        most = most.max(seconds.map(Duration::from_secs));
    }
    Ok(Ok(most.filter(|_| is_known)))
}

/// The error by which a replica no longer applies what it gets, if that is so.
fn halted(status: &ResultSet, row: &[Option<Vec<u8>>]) -> Option<String> {
    let value = |names: [&str; 2]| {
        let value = names.iter().find_map(|name| status.value(row, name)).flatten()?;
        Some(String::from_utf8_lossy(value).into_owned())
    };
    let runs = value(["Replica_SQL_Running", "Slave_SQL_Running"])?;
    value(["Last_SQL_Errno", "Last_Errno"]).filter(|code| runs == "No" && code != "0")
}

/// What a server is, for people: `5.5.5-` is what MariaDB says to old replicas.
fn name(greeting: &Greeting) -> String {
    let product = if greeting.is_mariadb() { "MariaDB" } else { "MySQL" };
    let version = greeting.version.strip_prefix("5.5.5-").unwrap_or(&greeting.version);
    let version: String = version.split('-').next().unwrap_or_default().chars().take(LONGEST_VERSION).collect();
    format!("{product} {version}")
}

fn text(row: &[Option<Vec<u8>>], at: usize) -> Option<String> {
    Some(String::from_utf8_lossy(row.get(at)?.as_deref()?).into_owned())
}
