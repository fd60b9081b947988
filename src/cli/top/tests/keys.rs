//! Keys, clicks, and what is asked for by them.

use super::*;
use crate::cli::top::{
    act::{Action, Deed},
    app::{Detail, Table},
    wanted::{Sort, Status},
};

fn shown(app: &mut App) -> String {
    screen(app, (100, 30), at(105))
}

fn tenants_of(app: &App) -> Vec<String> {
    app.tenants(at(105)).iter().map(|row| row.id().to_owned()).collect()
}

#[test]
fn an_action_goes_out_only_after_a_confirmation_and_with_its_note() {
    let mut app = fleet();
    assert_eq!(press(&mut app, &[Key::Char('S')]), Effect::None);
    press(&mut app, &typed("key leaked"));
    let action = Action {
        deed: Deed::Suspend,
        target: "acme".to_owned(),
        cap: String::new(),
        note: "key leaked".to_owned(),
    };
    assert_eq!(press(&mut app, &[Key::Enter]), Effect::Act(action));
    press(&mut app, &[Key::Char('S')]);
    assert_eq!(press(&mut app, &[Key::Escape, Key::Enter]), Effect::None, "left alone");
}

#[test]
fn each_deed_names_the_chosen_tenant_or_session() {
    for (key, deed) in
        [('S', Deed::Suspend), ('R', Deed::Resume), ('B', Deed::ResetBreaker), ('C', Deed::SetCap)]
    {
        let mut app = fleet();
        press(&mut app, &[Key::Down, Key::Char(key)]);
        press(&mut app, &typed("7"));
        let Effect::Act(action) = press(&mut app, &[Key::Enter]) else { panic!("{deed:?}") };
        assert_eq!((action.deed, action.target.as_str()), (deed, "small"));
        assert_eq!(action.cap, if deed == Deed::SetCap { "7" } else { "" });
    }
    let mut app = fleet();
    let effect = press(&mut app, &[Key::Tab, Key::End, Key::Char('K'), Key::Enter]);
    let Effect::Act(action) = effect else { panic!("{effect:?}") };
    assert_eq!((action.deed, action.target.as_str()), (Deed::Revoke, "AJ_0004"));
    let mut app = fleet();
    press(&mut app, &[Key::Char('K')]);
    assert!(shown(&mut app).contains("choose a session first"), "{}", shown(&mut app));
}

#[test]
fn a_cap_that_is_none_is_not_sent() {
    let mut app = fleet();
    press(&mut app, &[Key::Char('C')]);
    assert_eq!(press(&mut app, &[Key::Enter]), Effect::None);
    assert!(shown(&mut app).contains("must be a number"), "{}", shown(&mut app));
    press(&mut app, &typed("default"));
    press(&mut app, &[Key::Tab]);
    press(&mut app, &typed("a note"));
    let Effect::Act(action) = press(&mut app, &[Key::Enter]) else { panic!() };
    assert_eq!((action.cap.as_str(), action.note.as_str()), ("default", "a note"));
}

#[test]
fn a_failed_action_stays_until_it_is_read_and_in_the_events() {
    let mut app = fleet();
    press(&mut app, &[Key::Char('S')]);
    let Effect::Act(action) = press(&mut app, &[Key::Enter]) else { panic!() };
    app.done(&action, Err("refused: DRAINING: not now".to_owned()), at(106));
    app.tick(at(10_000));
    press(&mut app, &[Key::Down]);
    let text = shown(&mut app);
    assert!(text.contains("could not suspend tenant acme: refused: DRAINING"), "{text}");
    press(&mut app, &[Key::Escape]);
    let text = shown(&mut app);
    assert!(!text.contains("(Esc)") && text.contains("action_failed"), "{text}");
    app.done(&action, Ok(()), at(106));
    assert!(shown(&mut app).contains("done: suspend tenant acme"));
    app.tick(at(120));
    assert!(!shown(&mut app).contains("done:"), "a success goes away by itself");
}

#[test]
fn the_chosen_row_stays_chosen_wherever_it_goes() {
    let mut app = fleet();
    press(&mut app, &[Key::Down]);
    app.hear(Fed::Item(Item::Tenant(tenant("late", 100, 0, None))), at(105));
    let event = acquired(9, "AJ_0100", "new", 1, 5);
    app.hear(Fed::Item(Item::Event(event)), at(105));
    press(&mut app, &[Key::Char('s'), Key::Char('r'), Key::Char('S')]);
    assert_eq!(app.dialog.unwrap().action.target, "small");
}

#[test]
fn a_key_means_the_row_that_was_seen_even_when_it_has_just_gone() {
    let mut app = fleet();
    press(&mut app, &[Key::Tab]);
    draw(&mut app, (100, 30), COLOUR, at(105));
    app.hear(Fed::Item(Item::Event(ended(9, "AJ_0001", "acme"))), at(105));
    app.key(Key::Char('K'), at(105));
    assert_eq!(app.dialog.as_ref().unwrap().action.target, "AJ_0001");
    let text = shown(&mut app);
    assert!(text.contains("now: ended"), "{text}");
}

#[test]
fn what_is_pasted_is_text_and_never_keys() {
    let mut app = fleet();
    draw(&mut app, (100, 30), COLOUR, at(105));
    app.paste("Suspend\nq", at(105));
    assert!(app.dialog.is_none());
    press(&mut app, &[Key::Char('S')]);
    app.paste("see ticket 7\u{1b}[2J\rand more", at(105));
    let Effect::Act(action) = press(&mut app, &[Key::Enter]) else { panic!() };
    assert_eq!(action.note, "see ticket 7[2J");
}

#[test]
fn text_filters_rows_and_events_and_escape_takes_it_away() {
    let mut app = fleet();
    press(&mut app, &typed("/SMA"));
    assert_eq!(tenants_of(&app), ["small"]);
    let text = shown(&mut app);
    assert!(text.contains("session_rejected") && !text.contains("breaker_opened"), "{text}");
    assert!(text.contains("/SMA_"), "{text}");
    press(&mut app, &[Key::Enter, Key::Tab]);
    assert_eq!(app.sessions(at(105)).len(), 2, "by tenant");
    press(&mut app, &[Key::Escape]);
    assert_eq!(app.sessions(at(105)).len(), 6);
    press(&mut app, &typed("/q"));
    assert_eq!(app.wanted.text, "q", "no key of the screen while it is typed");
    press(&mut app, &[Key::Backspace, Key::Backspace]);
    assert_eq!(press(&mut app, &[Key::Char('q')]), Effect::Quit);
}

#[test]
fn statuses_are_gone_through_by_one_key() {
    let mut app = fleet();
    let mut seen = Vec::new();
    for _ in Status::TENANTS {
        press(&mut app, &[Key::Char('f')]);
        seen.push((app.status[0].unwrap().name(), tenants_of(&app).join(" ")));
    }
    let seen: Vec<_> = seen.iter().map(|(status, tenants)| (*status, tenants.as_str())).collect();
    assert_eq!(
        seen,
        [
            ("full", "small"),
            ("open", "broken"),
            ("half-open", "probing"),
            ("suspended", "halted"),
            ("refusing", "small"),
        ]
    );
    press(&mut app, &[Key::Char('f')]);
    assert_eq!(tenants_of(&app).len(), 6, "and all again");
    press(&mut app, &[Key::Tab]);
    let mut seen = Vec::new();
    for _ in Status::SESSIONS {
        press(&mut app, &[Key::Char('f')]);
        let ids: Vec<_> =
            app.sessions(at(105)).iter().map(|row| row.id()[6..].to_owned()).collect();
        seen.push((app.status[1].unwrap().name(), ids.join("")));
    }
    let seen: Vec<_> = seen.iter().map(|(status, ids)| (*status, ids.as_str())).collect();
    assert_eq!(
        seen,
        [
            ("pending", "2"),
            ("active", "1534"),
            ("grace", "6"),
            ("failed", "3"),
            ("probe", "4"),
            ("slow", "3")
        ]
    );
}

#[test]
fn each_column_sorts_and_the_same_again_turns_it_round() {
    let first = |sort, reverse| {
        let mut app = fleet();
        app.sort[0] = (sort, reverse);
        tenants_of(&app)[0].clone()
    };
    assert_eq!(first(Sort::Tenant, false), "acme");
    assert_eq!(first(Sort::Tenant, true), "small");
    assert_eq!(first(Sort::Active, false), "acme");
    assert_eq!(first(Sort::Pending, false), "acme");
    assert_eq!(first(Sort::Breaker, false), "halted");
    assert_eq!(first(Sort::Acquires, false), "acme");
    assert_eq!(first(Sort::Refusals, false), "small");
    assert_eq!(first(Sort::Failures, false), "broken");
    let first = |sort, reverse| {
        let mut app = fleet();
        app.sort[1] = (sort, reverse);
        app.sessions(at(105))[0].id()[3..].to_owned()
    };
    assert_eq!(first(Sort::Age, false), "0001");
    assert_eq!(first(Sort::Age, true), "0004");
    assert_eq!(first(Sort::Lag, false), "0003");
    assert_eq!(first(Sort::Session, true), "0006");
    assert!(["0001", "0002"].contains(&first(Sort::Memory, false).as_str()));
}

#[test]
fn clicks_choose_open_sort_and_change_the_table() {
    let mut app = fleet();
    let text = shown(&mut app);
    let find = |what: &str| {
        let hit = text.lines().enumerate().find_map(|(y, line)| Some((line.find(what)?, y)));
        let (byte, y) = hit.unwrap();
        let x = text.lines().nth(y).unwrap()[..byte].chars().count();
        (u16::try_from(x).unwrap(), u16::try_from(y).unwrap())
    };
    let (x, y) = find("small ");
    app.click(x, y, at(105));
    assert_eq!(app.place[0].id.as_deref(), Some("small"));
    assert!(app.detail.is_empty(), "the first only chooses");
    app.click(x, y, at(105));
    assert_eq!(app.detail, [Detail::Tenant("small".to_owned())]);
    press(&mut app, &[Key::Escape]);
    shown(&mut app);
    let (x, y) = find("REF/S");
    app.click(x, y, at(105));
    assert_eq!(app.sort[0], (Sort::Refusals, false));
    app.click(x, y, at(105));
    assert_eq!(app.sort[0], (Sort::Refusals, true));
    let (x, y) = find("Sessions ");
    app.click(x, y, at(105));
    assert_eq!(app.table, Table::Sessions);
    shown(&mut app);
    app.wheel(true, at(105));
    assert_eq!(app.place[1].index, 3);
    press(&mut app, &[Key::Char('K')]);
    app.click(x, 0, at(105));
    app.wheel(true, at(105));
    assert_eq!((app.table, app.place[1].index), (Table::Sessions, 3), "a question holds the rest");
}

#[test]
fn a_long_table_is_gone_through_by_pages() {
    let mut app = fleet();
    for n in 0..500 {
        let tenant = tenant(&format!("t{n:03}"), 0, 0, Some(1));
        app.hear(Fed::Item(Item::Tenant(tenant)), at(105));
    }
    app.hear(Fed::Item(Item::SnapshotEnd(v1::SnapshotEnd { cursor: cursor(5) })), at(105));
    app.sort[0] = (Sort::Tenant, false);
    press(&mut app, &[Key::End]);
    assert!(shown(&mut app).contains("t499"));
    press(&mut app, &[Key::PageUp, Key::PageDown, Key::Up]);
    assert_eq!(app.place[0].id.as_deref(), Some("t498"));
    press(&mut app, &[Key::Home]);
    assert!(shown(&mut app).contains("t000"));
    press(&mut app, &[Key::PageDown]);
    assert!(app.place[0].index > 5, "{:?}", app.place[0]);
}

#[test]
fn held_still_the_screen_keeps_what_it_showed_and_then_catches_up() {
    let mut app = fleet();
    press(&mut app, &[Key::Char('p')]);
    app.hear(Fed::Item(Item::Event(acquired(9, "AJ_0100", "acme", 13, 20))), at(106));
    let text = screen(&mut app, (100, 30), at(106));
    assert!(text.contains("PAUSED") && !text.contains("AJ_0100"), "{text}");
    press(&mut app, &[Key::Char('p')]);
    assert!(shown(&mut app).contains("AJ_0100"));
}

#[test]
fn the_sessions_of_one_tenant_and_then_all() {
    let mut app = fleet();
    press(&mut app, &[Key::Down, Key::Char('t')]);
    assert_eq!((app.table, app.sessions(at(105)).len()), (Table::Sessions, 2));
    assert!(shown(&mut app).contains("of small"));
    press(&mut app, &[Key::Char('t')]);
    assert_eq!(app.sessions(at(105)).len(), 6);
    press(&mut app, &[Key::Char('t')]);
    assert_eq!(app.wanted.one_tenant.as_deref(), Some("small"), "the chosen session's");
}

#[test]
fn control_keys_end_stop_and_redraw_from_everywhere() {
    for before in [vec![], vec![Key::Char('?')], vec![Key::Char('/')], vec![Key::Char('S')]] {
        let mut app = fleet();
        press(&mut app, &before);
        assert_eq!(app.key(Key::Control('c'), at(105)), Effect::Quit);
        assert_eq!(app.key(Key::Control('z'), at(105)), Effect::Stop);
        assert_eq!(app.key(Key::Control('l'), at(105)), Effect::Redraw);
    }
}
