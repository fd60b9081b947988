use super::*;

fn parsed(text: &str) -> Result<Config, String> {
    parse(Path::new("t.toml"), text, 0o600).map_err(|wrong| wrong.to_string())
}

#[test]
fn tenants_fall_back_to_the_defaults_key_by_key() {
    let config = parsed(
        "[lease]\ngrace='1s'\n[defaults]\ncap=5\n[defaults.breaker]\nmin_samples=7\n\
         [defaults.providers.llm]\nprovider='openai'\ncredential='env:K'\n\
         [tenants.acme]\ncap=2\n[tenants.acme.breaker]\nprobes=1\n[tenants.acme.providers]\nllm='none'\n",
    )
    .unwrap();
    let acme = config.tenant(&TenantId::parse("acme").unwrap()).unwrap();
    assert_eq!(acme.limits.cap, Some(2));
    assert_eq!((acme.limits.breaker.min_samples, acme.limits.breaker.probes), (7, 1));
    assert_eq!(acme.limits.lease.grace, Duration::from_secs(1));
    assert!(acme.providers.is_empty());
    let other = config.tenant(&TenantId::parse("other").unwrap()).unwrap();
    assert!(!other.known && other.limits.cap == Some(5) && other.providers.contains_key("llm"));
}

#[test]
fn nonsense_is_refused_with_line_key_and_what_would_be_valid() {
    for (text, says) in [
        (
            "[tenants.acme]\ncapp = 3",
            "t.toml:2:1: tenants.acme.capp: unknown key, did you mean cap? valid here: cap, acquires_per_second,",
        ),
        (
            "[tenants.acme]\ncap = 'x'",
            "t.toml:2:7: tenants.acme.cap: must be a whole number, 0 or more, got string",
        ),
        ("[tenants.acme]\ncap = 0", "tenants.acme.cap: must be 1 to 1000000, got 0"),
        ("[tenants.acme]\ncap = -1", "tenants.acme.cap: "),
        ("[tenants.'a b']\ncap = 1", "must be 1-128 characters of [A-Za-z0-9_-]"),
        (
            "[defaults.breaker]\ncooldown = '0s'",
            "t.toml:2:12: defaults.breaker.cooldown: must be 10ms to 365 days",
        ),
        (
            "[defaults.breaker]\nfailure_ratio = 1.5",
            "defaults.breaker.failure_ratio: must be 0 or more and less than 1",
        ),
        ("[defaults.breaker]\nmin_samples = 0", "must be 1 to 1000000, got 0"),
        ("[defaults.breaker]\nwindow = 'soon'", "must be a duration, for example"),
        ("[lease]\nttl = '1s'", "ttl_min, ttl and ttl_max must be in this order"),
        (
            "[listen]\ntcp = '0.0.0.0:1'",
            "t.toml:2:7: listen.tcp: is not a loopback address: it needs TLS, listen.tls with",
        ),
        (
            "[listen]\ntcp = '0.0.0.0:1'\ntls = { cert_file = 'c', key_file = 'k' }",
            "listen.tcp: is not a loopback address: it needs [[identities]] with tokens",
        ),
        (
            "[listen]\ntcp = '[::]:1'\ntls = { cert_file = 'c', key_file = 'k' }\n[[identities]]\nname = 'a'\nroles = ['agent']\ntenants = ['*']\nuids = [7]",
            "listen.tcp: is not a loopback address: it needs [[identities]] with tokens",
        ),
        (
            "[listen]\ntls = { cert_file = 'c', key_file = 'k', client_cert = 'optional' }",
            "listen.tls.client_cert: needs client_ca_file",
        ),
        (
            "[listen]\ntls = { cert_file = 'c', key_file = 'k', client_crl_file = 'l' }",
            "listen.tls.client_crl_file: needs client_ca_file",
        ),
        (
            "[[identities]]\nname = 'a'\nroles = ['agent']\ntenants = ['*']\nuris = ['spiffe://x/a']",
            "identities[0].uris: needs listen.tls.client_ca_file",
        ),
        ("[listen]\nunix_mode = '0066'", "listen.unix_mode: must be a mode in octal with 6 for"),
        ("[listen]\nunix_mode = '0777'", "listen.unix_mode: must be a mode in octal with 6 for"),
        ("[listen]\nunix = 'x.sock'", "must be an absolute path"),
        (
            "unknown_tenants = 'maybe'",
            "unknown_tenants: must be `accept` or `reject`, got another word",
        ),
        (
            "[defaults.providers.llm]\nprovider = ''",
            "t.toml:2:12: defaults.providers.llm.provider: must be a name",
        ),
        (
            "[defaults.providers.llm]\nprovider = 'x'\nbase_url = 'ftp://x'",
            "t.toml:3:12: defaults.providers.llm.base_url: must be an http",
        ),
        (
            "[defaults.providers.llm]\nprovider = 'x'\ncredential = 'aws:a#b'",
            "t.toml:3:14: defaults.providers.llm.credential: has an unknown scheme",
        ),
        (
            "[defaults.providers.llm]\nprovider = 'x'\ncredential = 'vault:a#b'",
            "t.toml:3:14: defaults.providers.llm.credential: vault: must be followed by MOUNT/PATH#FIELD",
        ),
        (
            "[defaults.providers.llm]\nprovider = 'x'\ncredential = 'vault:kv/a#b'",
            "t.toml:3:14: defaults.providers.llm.credential: vault: needs a [vault] table",
        ),
        ("[[sources]]\nkind = 'sql'\nurl = 'mysql://h/d'", "must begin with sqlite:, postgres://"),
        ("[[sources]]\nkind = 'http'\nurl = 'https://h/t'", "must have {tenant} in its path"),
        (
            "[[sources]]\nkind = 'http'\nurl = 'https://h/{tenant}'\nquery = 'x'",
            "query goes only with kind sql",
        ),
        (
            "[[sources]]\nkind = 'http'\nurl = 'https://h/{tenant}'\ncert_file = 'x'",
            "cert_file and key_file go together",
        ),
        (
            "[[sources]]\nkind = 'sql'\nurl = 'sqlite:a'\n[[sources]]\nkind = 'sql'\nurl = 'sqlite:b'",
            "two sources have the name sql",
        ),
        ("[[sources]]\nkind = 'sql'\nurl = 'sqlite:a'\nttl = '0s'", "must be 1s to 365 days"),
        ("[vault]\naddress = 'https://v'", "needs token (a token), or role"),
        ("[vault]\naddress = 'v'\nrole = 'r'", "vault.address: must be an http:// or https://"),
        ("[defaults\n", "t.toml:1:"),
    ] {
        let said = parsed(text).unwrap_err();
        assert!(said.contains(says), "{text:?}\n got: {said}\nwant: {says}");
    }
}

#[test]
fn all_wrong_values_are_shown_at_once() {
    let said = parsed("[tenants.a]\ncap = 0\n[tenants.b]\ncap = 0").unwrap_err();
    assert_eq!(said.lines().count(), 2, "{said}");
    let said = parsed(
        "unknown = 1\n[limits]\nmax_sesions = 5\nheartbeat = 'often'\n[tenants.a]\ncap = 'x'\n\
         [tenants.a.providers.llm]\nmodel = 'm'\n[agents.b]\n[tenants.c]\ncap = 0\nzzz = 1",
    )
    .unwrap_err();
    let keys: Vec<_> = said.lines().map(|line| line.split(": ").nth(1).unwrap()).collect();
    assert_eq!(
        keys,
        [
            "unknown",
            "limits.max_sesions",
            "limits.heartbeat",
            "tenants.a.cap",
            "tenants.a.providers.llm",
            "agents.b",
            "tenants.c.cap",
            "tenants.c.zzz",
        ],
        "{said}"
    );
    assert!(said.contains("did you mean max_sessions?"), "{said}");
}

#[test]
fn a_key_in_the_wrong_place_is_never_shown() {
    for text in [
        "[defaults.providers.llm]\nprovider='x'\ncredentials='sk-canary'",
        "[defaults.providers]\nllm='sk-canary'",
        "[defaults]\ncap='sk-canary'",
        "[defaults]\nbreaker='sk-canary'",
        "unknown_tenants='sk-canary'",
        "[lease]\nttl='sk-canary'",
        "[listen]\ntcp='sk-canary'",
        "[defaults.providers.llm]\nprovider='x'\ncredential='canary:sk-canary'",
        "[defaults.providers.llm]\nprovider='x'\ncredential='sk-canary",
    ] {
        let said = parsed(text).unwrap_err();
        assert!(!said.contains("sk-canary"), "{said}");
    }
}

#[test]
fn a_literal_key_needs_a_file_that_others_cannot_read() {
    let text = "[defaults.providers.llm]\nprovider='x'\ncredential='sk-1'";
    let said = parse(Path::new("t.toml"), text, 0o644).unwrap_err().to_string();
    assert!(said.contains("mode 644") && said.contains("chmod 600"), "{said}");
    assert!(parse(Path::new("t.toml"), text, 0o600).is_ok());
    let by_name = "[defaults.providers.llm]\nprovider='x'\ncredential='env:K'";
    assert!(parse(Path::new("t.toml"), by_name, 0o644).is_ok());
}

#[test]
fn only_what_changed_has_a_new_version() {
    let with = |key: &str| {
        parsed(&format!(
            "[tenants.a.providers.llm]\nprovider='x'\ncredential='{key}'\n[tenants.b]\ncap=1"
        ))
        .unwrap()
    };
    let changes = diff(&with("one"), &with("two"));
    assert_eq!(changes.tenants, [TenantId::parse("a").unwrap()]);
    assert!(diff(&with("one"), &with("one")).tenants.is_empty());
}

proptest::proptest! {
    #[test]
    fn no_text_makes_it_panic(text in ".{0,200}") {
        let _ = parsed(&text);
    }
}
