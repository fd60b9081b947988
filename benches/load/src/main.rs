//! `make bench`: see `docs/performance.md`.

mod compare;
mod flood;
mod generate;
mod h2;
mod messages;
mod noop;
mod process;
mod redis;
mod tenants;
mod watchers;

#[allow(missing_docs, clippy::all, clippy::pedantic, reason = "generated")]
pub mod v1 {
    tonic::include_proto!("tenantd.v1");
}

const USAGE: &str = "tenantd-bench compare|watchers|tenants|flood|flooder SOCKET acquires|connections|calls SECONDS|drive SOCKET|tcp:IP:PORT CxS unary|stream|noop PATH|noop-gathered PATH";

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args.as_slice() {
        ["compare", rest @ ..] => compare::run(rest),
        ["watchers"] => watchers::run(),
        ["flood"] => flood::run(),
        ["tenants"] => tenants::run(),
        ["flooder", path, kind, seconds] => flood::flooder(path, kind, seconds),
        ["drive", path, shape, form] => compare::drive_one(path, shape, form),
        ["noop", path] => noop::serve(path.as_ref(), false),
        ["noop-gathered", path] => noop::serve(path.as_ref(), true),
        _ => {
            eprintln!("{USAGE}");
            std::process::exit(2);
        }
    }
}
