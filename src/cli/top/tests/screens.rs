//! Golden screens; `UPDATE_GOLDEN=1` rewrites them.

use std::{fs, path::Path};

use ratatui::style::{Color, Modifier};

use super::*;

const SMALL: (u16, u16) = (80, 24);
const LARGE: (u16, u16) = (160, 40);

fn golden(name: &str, got: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/top").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, got).unwrap();
    }
    let want = fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(got, want, "{} differs; UPDATE_GOLDEN=1 rewrites it", path.display());
}

#[test]
fn the_tenants_table_shows_caps_breakers_rates_and_ratios() {
    golden("tenants-80x24.txt", &screen(&mut fleet(), SMALL, at(105)));
    golden("tenants-160x40.txt", &screen(&mut fleet(), LARGE, at(105)));
}

#[test]
fn the_sessions_table_shows_age_state_lag_and_memory() {
    let mut app = fleet();
    press(&mut app, &[Key::Tab]);
    golden("sessions-80x24.txt", &screen(&mut app, SMALL, at(105)));
    golden("sessions-160x40.txt", &screen(&mut app, LARGE, at(105)));
}

#[test]
fn the_events_have_a_screen_of_their_own() {
    let mut app = fleet();
    press(&mut app, &[Key::Char('3')]);
    golden("events-80x24.txt", &screen(&mut app, SMALL, at(105)));
}

#[test]
fn a_tenant_and_a_session_have_a_page_each() {
    let mut app = fleet();
    // The second by live sessions is the full one.
    press(&mut app, &[Key::Down, Key::Enter]);
    golden("tenant-80x24.txt", &screen(&mut app, SMALL, at(105)));
    let mut app = fleet();
    press(&mut app, &typed("/broken"));
    press(&mut app, &[Key::Enter, Key::Tab, Key::Enter]);
    golden("session-80x24.txt", &screen(&mut app, SMALL, at(105)));
    press(&mut app, &[Key::Enter]);
    assert!(screen(&mut app, SMALL, at(105)).contains("tenant broken"), "from it to its tenant");
}

#[test]
fn the_help_names_the_keys_and_scrolls_where_it_does_not_fit() {
    let mut app = fleet();
    press(&mut app, &[Key::Char('?')]);
    golden("help-80x24.txt", &screen(&mut app, SMALL, at(105)));
    app.key(Key::End, at(105));
    let shown = screen(&mut app, SMALL, at(105));
    assert!(shown.contains("tenantd top --help"), "{shown}");
}

#[test]
fn an_action_is_asked_about_with_its_object_and_how_that_stands() {
    let mut app = fleet();
    press(&mut app, &[Key::Char('C')]);
    press(&mut app, &typed("fife"));
    press(&mut app, &[Key::Enter]);
    golden("cap-80x24.txt", &screen(&mut app, SMALL, at(105)));
    let mut app = fleet();
    press(&mut app, &[Key::Tab, Key::Char('K')]);
    press(&mut app, &typed("runs away"));
    golden("revoke-80x24.txt", &screen(&mut app, SMALL, at(105)));
}

#[test]
fn the_words_of_a_failed_action_are_shown_whole() {
    let mut app = fleet();
    press(&mut app, &[Key::Char('S')]);
    let Effect::Act(action) = press(&mut app, &[Key::Enter]) else { panic!() };
    let why = "refused: NOT_PERMITTED: AdminService/SuspendTenant needs the role admin, \
        which support (token) does not have for tenant acme";
    app.done(&action, Err(why.to_owned()), at(105));
    golden("failed-80x24.txt", &screen(&mut app, SMALL, at(105)));
    app.done(&action, Err("x".repeat(10_000)), at(105));
    assert!(screen(&mut app, SMALL, at(105)).contains("acme   "), "the rest stays");
}

#[test]
fn an_away_sidecar_is_told_with_what_was_known_last() {
    let mut app = fleet();
    app.hear(Fed::Down("it went away".to_owned()), at(106));
    golden("reconnecting-80x24.txt", &screen(&mut app, SMALL, at(113)));
}

#[test]
fn before_the_first_answer_it_says_that_it_connects() {
    let mut app = App::new(Wanted::default());
    golden("connecting-80x24.txt", &screen(&mut app, SMALL, at(0)));
}

#[test]
fn without_colour_and_utf_8_everything_is_still_there() {
    let mut app = fleet();
    let buffer = draw(&mut app, SMALL, PLAIN, at(105));
    golden("tenants-plain-80x24.txt", &(lines(&buffer).join("\n") + "\n"));
    for cell in buffer.content() {
        assert_eq!((cell.fg, cell.bg), (Color::Reset, Color::Reset));
        assert!(cell.symbol().is_ascii(), "{:?}", cell.symbol());
    }
    // What matters is told by more than colour.
    let line = lines(&buffer).iter().position(|line| line.starts_with("broken")).unwrap();
    let open = &buffer[(40, u16::try_from(line).unwrap())];
    assert!(open.modifier.contains(Modifier::UNDERLINED), "{open:?}");
    press(&mut app, &[Key::Char('?')]);
    let buffer = draw(&mut app, SMALL, PLAIN, at(105));
    assert!(lines(&buffer).concat().is_ascii());
}

#[test]
fn no_size_breaks_it() {
    for keys in ["1", "2", "3", "?", "C", "1\n", "2\n", "/acm"] {
        let mut app = fleet();
        for c in keys.chars() {
            let key = if c == '\n' { Key::Enter } else { Key::Char(c) };
            press(&mut app, &[key]);
        }
        for width in [0, 1, 20, 59, 60, 61, 79, 119, 120, 300] {
            for height in [0, 1, 9, 10, 11, 17, 18, 60] {
                draw(&mut app, (width, height), COLOUR, at(105));
            }
        }
    }
    let said = screen(&mut fleet(), (40, 9), at(105));
    assert!(said.contains("needs 60 x 10"), "{said}");
}

#[test]
fn what_comes_from_outside_cannot_act_on_the_terminal() {
    const HOSTILE: &str = "\u{1b}[2J\u{1b}]0;owned\u{7}\u{9b}31m\r\n\u{202e}live\u{2066}\u{200b}";
    let mut app = App::new(Wanted::default());
    let say = |app: &mut App, item| app.hear(Fed::Item(item), at(100));
    app.hear(Fed::Up { resumed: false }, at(100));
    let mut evil = tenant(HOSTILE, 1, 0, Some(2));
    evil.suspension = Some(v1::Suspension {
        actor: HOSTILE.to_owned(),
        note: HOSTILE.to_owned(),
        since: wall(0),
    });
    evil.config_version = HOSTILE.to_owned();
    say(&mut app, Item::Tenant(evil.clone()));
    let mut run = session(HOSTILE, HOSTILE, HOSTILE, 1);
    run.agent_name = HOSTILE.to_owned();
    say(&mut app, Item::Session(run));
    say(&mut app, Item::SnapshotEnd(v1::SnapshotEnd { cursor: cursor(0) }));
    let worker = v1::Worker {
        worker: HOSTILE.to_owned(),
        loop_blocked: span(500),
        loop_blocked_time: wall(99),
        loop_blocked_session_id: HOSTILE.to_owned(),
        ..Default::default()
    };
    app.hear(
        Fed::Figures(Box::new(v1::GetSnapshotResponse {
            version: HOSTILE.to_owned(),
            last_error: HOSTILE.to_owned(),
            last_error_tenant: HOSTILE.to_owned(),
            tenants: vec![evil],
            attached_workers: vec![worker],
            ..Default::default()
        })),
        at(100),
    );
    let text = |text: &str| prost_types::Value {
        kind: Some(prost_types::value::Kind::StringValue(text.to_owned())),
    };
    let attributes = prost_types::Struct { fields: [(HOSTILE.to_owned(), text(HOSTILE))].into() };
    let told = v1::AgentEvent {
        name: HOSTILE.to_owned(),
        severity: v1::Severity::Error.into(),
        attributes: Some(attributes),
    };
    let told = event(1, v1::EventKind::AgentEvent, HOSTILE, Some(Detail::AgentEvent(told)));
    let told = v1::Event {
        session_id: HOSTILE.to_owned(),
        agent_name: HOSTILE.to_owned(),
        actor: HOSTILE.to_owned(),
        note: HOSTILE.to_owned(),
        ..told
    };
    say(&mut app, Item::Event(told));
    say(&mut app, Item::Gap(v1::Gap { message: HOSTILE.to_owned(), ..Default::default() }));
    say(&mut app, Item::SnapshotEnd(v1::SnapshotEnd { cursor: cursor(1) }));
    app.hear(figures(0, 1), at(101));
    for line in &app.world.tail {
        let escaped = line.shown.matches("\\u{1b}[2J").count();
        assert_eq!(line.shown.matches("[2J").count(), escaped, "{}", line.shown);
        assert!(
            escaped > 0 && !line.shown.contains(['\u{1b}', '\u{202e}', '\n']),
            "{}",
            line.shown
        );
    }
    let mut seen = 0;
    for keys in [
        vec![],
        vec![Key::Char('S')],
        vec![Key::Enter],
        vec![Key::Tab],
        vec![Key::Tab, Key::Enter],
        vec![Key::Tab, Key::Char('K')],
        vec![Key::Char('3')],
        [Key::Char('/')].into_iter().chain(typed("\u{202e}")).collect(),
    ] {
        let mut app = App { world: app.world.clone(), ..App::new(Wanted::default()) };
        press(&mut app, &keys);
        app.hear(Fed::Down(HOSTILE.to_owned()), at(101));
        for cell in draw(&mut app, (200, 40), COLOUR, at(101)).content() {
            let bad = |c: char| c.is_control() || matches!(c, '\u{202e}' | '\u{2066}' | '\u{200b}');
            assert!(!cell.symbol().contains(bad), "{:?} after {keys:?}", cell.symbol());
            seen += usize::from(cell.symbol() == "\\");
        }
    }
    assert!(seen > 50, "it is shown, as escapes: {seen}");
}
