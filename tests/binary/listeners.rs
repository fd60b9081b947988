use std::{
    fs, os::unix::fs::PermissionsExt as _, os::unix::process::CommandExt as _, process::Command,
};

use crate::support::{Start, call, skipped, text};

#[test]
fn loopback_tcp_serves_beside_the_socket_and_warns() {
    // A port that was free a moment ago.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let running = Start { listen: &[&free.to_string()], ..Start::default() }.run();
    let said = running.said();
    let at = said.find("http://127.0.0.1:").expect("the banner names the port");
    let address = said[at..].split_whitespace().next().unwrap();
    assert_eq!(call(address, &["healthcheck"]).status.code(), Some(0));
    assert_eq!(running.call(&["healthcheck"]).status.code(), Some(0));
    assert!(said.contains("no credentials"), "{said}");
}

#[test]
fn another_address_is_refused_with_what_would_make_it_safe() {
    let output = call("unix:/nonexistent", &["serve", "--listen", "0.0.0.0:7443"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("needs TLS"), "{}", text(&output));
}

#[test]
fn the_socket_is_private_and_a_second_sidecar_does_not_take_it() {
    let running = Start::default().run();
    let mode = fs::metadata(running.socket()).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    let output = call("unix:/nonexistent", &["serve", "--listen", &running.address()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("another process serves"), "{}", text(&output));
    assert_eq!(running.call(&["healthcheck"]).status.code(), Some(0), "the first goes on");
}

#[test]
fn another_user_is_refused_even_when_the_mode_lets_him_in() {
    if !rustix::process::getuid().is_root() {
        skipped("calling as another user needs root");
        return;
    }
    let running = Start::default().run();
    let binary = running.dir.path().join("tenantd");
    fs::copy(env!("CARGO_BIN_EXE_tenantd"), &binary).unwrap();
    fs::set_permissions(running.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(running.socket(), fs::Permissions::from_mode(0o666)).unwrap();
    for arguments in [&["tenants"][..], &["snapshot"], &["suspend", "acme"], &["watch"]] {
        let output = Command::new(&binary)
            .args(arguments)
            .env("TENANTD_ADDRESS", running.address())
            .uid(65_534)
            .gid(65_534)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        assert!(text(&output).contains("NOT_PERMITTED"), "{arguments:?}: {}", text(&output));
        assert!(output.stdout.is_empty());
    }
}
