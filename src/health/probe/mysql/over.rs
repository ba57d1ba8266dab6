//! Why a talk with a MySQL server is over before everything was asked, and what that means for the endpoint.

use crate::health::probe::server::Answer;
use crate::health::verdict::{Observation, Text};
use crate::wire::mysql::{MysqlError, ServerError};

/// Why a talk is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Over {
    /// The server lives, but has no room for us.
    Full(Text),
    /// It shuts down, and is nothing to the others any more.
    Gone(Text),
    /// Anything else.
    Told(Observation),
}

impl Over {
    /// A definite answer, and the wrong one.
    pub(super) fn refused(why: impl Into<Text>) -> Over {
        Over::Told(Observation::Refused(why.into()))
    }

    /// Something of ours keeps us from finding out more.
    pub(super) fn unclear(why: impl Into<Text>) -> Over {
        Over::Told(Observation::Unclear(why.into()))
    }

    /// What is known of the endpoint.
    pub(super) fn answer(self) -> Result<Answer, Observation> {
        match self {
            Over::Full(text) => Ok(Answer::full(text)),
            Over::Gone(text) => Err(Observation::Refused(text)),
            Over::Told(observation) => Err(observation),
        }
    }
}

impl From<ServerError> for Over {
    fn from(error: ServerError) -> Over {
        let ServerError { code, message } = &error;
        let (before, is_ours) = match code {
            // Too many connections, of all users or of ours, and more of ours in this hour than it may have.
            1040 | 1203 | 1226 => return Over::Full(told(&error)),
            // Something came between that says nothing of the next time: the connection was killed, a statement was
            // ended or took too long, a packet was lost.
            1158..=1161 | 1317 | 1927 | 1969 | 3024 => return Over::Told(Observation::Missing(told(&error))),
            // Another password, no such database, no right to ask.
            1044 | 1045 | 1049 | 1227 | 1698 => ("", true),
            1820 | 1862 => ("the password of our user has expired: ", true),
            3118 | 4151 => ("our user is locked: ", true),
            1047 => ("not ready for use: ", false),
            1053 => return Over::Gone(format!("shutting down: {}", told(&error)).into()),
            // Nor are clients let in, whom we connect from the same address.
            1129 => ("it has blocked our address: ", false),
            1130 => ("it does not let our address in: ", false),
            3032 => ("in offline mode: ", false),
            _ => ("", false),
        };
        let why = format!("{before}{message} (error {code})");
        if is_ours { Over::unclear(why) } else { Over::refused(why) }
    }
}

fn told(error: &ServerError) -> Text {
    format!("{} (error {})", error.message, error.code).into()
}

impl From<MysqlError> for Over {
    fn from(error: MysqlError) -> Over {
        Over::refused(format!("it does not answer as MySQL does: {error}"))
    }
}

impl From<Observation> for Over {
    fn from(observation: Observation) -> Over {
        Over::Told(observation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_servers_are_told_apart() {
        let refused = |text: &str| Over::refused(text.to_owned());
        let unclear = |text: &str| Over::unclear(text.to_owned());
        let missing = |text: &str| Over::Told(Observation::Missing(text.to_owned().into()));
        for (code, message, over) in [
            (1040, "Too many connections", Over::Full("Too many connections (error 1040)".into())),
            (1203, "max_user_connections", Over::Full("max_user_connections (error 1203)".into())),
            (1226, "max_connections_per_hour", Over::Full("max_connections_per_hour (error 1226)".into())),
            (1045, "Access denied for user 'pm'", unclear("Access denied for user 'pm' (error 1045)")),
            (1049, "Unknown database 'x'", unclear("Unknown database 'x' (error 1049)")),
            (1053, "Server shutdown", Over::Gone("shutting down: Server shutdown (error 1053)".into())),
            (
                1129,
                "Host '10.0.0.1' is blocked",
                refused("it has blocked our address: Host '10.0.0.1' is blocked (error 1129)"),
            ),
            (
                1130,
                "Host '10.0.0.1' is not allowed",
                refused("it does not let our address in: Host '10.0.0.1' is not allowed (error 1130)"),
            ),
            (
                1047,
                "WSREP has not yet prepared node",
                refused("not ready for use: WSREP has not yet prepared node (error 1047)"),
            ),
            (
                1227,
                "Access denied; you need SLAVE MONITOR",
                unclear("Access denied; you need SLAVE MONITOR (error 1227)"),
            ),
            (
                1862,
                "Your password has expired",
                unclear("the password of our user has expired: Your password has expired (error 1862)"),
            ),
            (4151, "Access denied", unclear("our user is locked: Access denied (error 4151)")),
            (1146, "Table 'a.b' doesn't exist", refused("Table 'a.b' doesn't exist (error 1146)")),
            (1317, "Query was interrupted", missing("Query was interrupted (error 1317)")),
            (1927, "Connection was killed", missing("Connection was killed (error 1927)")),
        ] {
            assert_eq!(Over::from(ServerError { code, message: message.to_owned() }), over, "{code}");
        }
    }
}
