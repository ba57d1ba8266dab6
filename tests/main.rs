//! The integration tests, in one binary: a balancer between real sockets.
//!
//! Where a test belongs: what one module does alone is tested beside its code; what is seen from outside stands here,
//! in the module of its concern. `harness` starts balancers, clients and endpoints.

#![allow(unreachable_pub, reason = "a test binary has no outside")]
#![allow(clippy::disallowed_methods, reason = "clients and endpoints here are plain threads that may block")]

mod harness;

mod acme;
mod admin;
mod broken_hellos;
mod bulk;
mod cli;
mod client_certificates;
mod clients;
mod costs;
mod databases;
mod demo;
mod discovery;
mod endpoint_tls;
mod endpoints;
mod expiry;
mod failover;
mod faults;
mod half_close;
mod health;
mod hellos;
mod leaks;
mod leaving;
mod limits;
mod listeners;
mod mysql_probe;
mod network;
mod observe;
mod patroni;
mod postgres;
mod postgres_probe;
mod probes;
mod proxy_peers;
mod proxy_received;
mod proxy_sent;
mod quiet;
mod ranks;
mod redis_probe;
mod refusals;
mod reset;
mod retries;
mod roles;
mod scanners;
mod servers;
mod shortage;
mod smoke;
mod stop;
mod terminate;
mod tls_clients;
mod transparent;
mod who;
