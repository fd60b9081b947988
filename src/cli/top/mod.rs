//! `tenantd top`: tenants, sessions and events on one screen, with what an
//! operator does about them.
//!
//! `model` knows, `app` decides what is shown and what keys mean, `view` draws;
//! all three are pure. `feed` asks, `act` acts, `terminal` holds the screen, and
//! this file ties them together.

pub mod act;
pub mod app;
pub mod ask;
pub mod feed;
mod happened;
pub mod history;
mod keys;
pub mod model;
mod once;
pub mod press;
pub mod rows;
pub mod tail;
pub mod terminal;
#[cfg(test)]
mod tests;
pub mod view;
pub mod wanted;

use std::{
    io::IsTerminal as _,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use clap::CommandFactory as _;
use crossterm::event::EventStream;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    task::JoinSet,
    time::MissedTickBehavior,
};
use tokio_stream::StreamExt as _;

use self::{
    act::Action,
    app::{App, Effect, Table},
    feed::Asked,
    model::Now,
    terminal::Screen,
    view::look::Look,
    wanted::{Sort, Status, Wanted},
};
use crate::cli::client::Target;

/// The screen is drawn anew at most this often while things come in.
const FRAME: Duration = Duration::from_millis(100);
/// Of the time, at most one part in so many goes into drawing.
const SHARE: u32 = 4;
/// Most items taken in between two looks at the keyboard.
const BATCH: usize = 4096;
/// Most often and most seldom that figures may be asked for.
const REFRESH: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(60));

/// Shows tenants, sessions and events as they change, and acts on them
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  tenantd top\n  tenantd top --tenant acme --sort refusals\n  tenantd top --status slow\n  tenantd top --once\n  tenantd top --once --json | jq '.tenants[] | select(.breaker == \"open\") | .tenant'\n\nKeys: ? shows them all. NO_COLOR is respected; without a UTF-8 locale it draws in ASCII."
)]
pub struct Args {
    /// Only this tenant; repeatable
    #[arg(long)]
    tenant: Vec<String>,
    /// Only sessions and events of this agent; repeatable
    #[arg(long)]
    agent: Vec<String>,
    /// Only tenants or sessions that stand so
    #[arg(long, value_enum)]
    status: Option<Status>,
    /// Sorts by this column
    #[arg(long, value_enum)]
    sort: Option<Sort>,
    /// Sorts the other way round
    #[arg(long)]
    reverse: bool,
    /// Which table it begins with; with --once: only this one
    #[arg(long, value_enum)]
    view: Option<Table>,
    /// How often figures are asked for, 100ms to 60s
    #[arg(long, default_value = "1s", value_parser = refresh)]
    refresh: Duration,
    /// Prints it once, after one refresh, and ends
    #[arg(long)]
    once: bool,
    /// As JSON: one object a refresh, or one with --once
    #[arg(long)]
    json: bool,
}

fn refresh(typed: &str) -> Result<Duration, String> {
    let span = humantime::parse_duration(typed).map_err(|error| error.to_string())?;
    if (REFRESH.0..=REFRESH.1).contains(&span) {
        Ok(span)
    } else {
        Err("must be 100ms to 60s".to_owned())
    }
}

/// Runs it.
///
/// # Errors
/// `Unreachable` at the start, or the sidecar's refusal then.
pub async fn run(target: Target, args: Args) -> anyhow::Result<()> {
    let began = Instant::now();
    let clock = move || Now {
        mono: began.elapsed(),
        wall: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
    };
    let app = begin(&args);
    let asked = Asked { target, tenants: args.tenant, agents: args.agent, refresh: args.refresh };
    if args.once || args.json {
        return tokio::select! {
            printed = once::run(asked, app, args.once, args.json, args.view, clock) => printed,
            _ = tokio::signal::ctrl_c() => Ok(()),
        };
    }
    if !std::io::stdout().is_terminal() {
        let words = "top: stdout is no terminal; --once or --json print what it shows";
        super::Cli::command().error(clap::error::ErrorKind::InvalidValue, words).exit();
    }
    let screen = Screen::take()?;
    follow(asked, app, screen, clock).await
}

/// What the flags say.
fn begin(args: &Args) -> App {
    let wanted =
        Wanted { tenants: args.tenant.clone(), agents: args.agent.clone(), ..Wanted::default() };
    let mut app = App::new(wanted);
    let sessions_only =
        |sort: Sort| Sort::SESSIONS.contains(&sort) && !Sort::TENANTS.contains(&sort);
    if let Some(status) = args.status {
        let at = usize::from(!Status::TENANTS.contains(&status));
        app.status[at] = Some(status);
        if at == 1 {
            app.table = Table::Sessions;
        }
    }
    if let Some(sort) = args.sort {
        if Sort::TENANTS.contains(&sort) {
            app.sort[0].0 = sort;
        }
        if Sort::SESSIONS.contains(&sort) {
            app.sort[1].0 = sort;
        }
        if sessions_only(sort) {
            app.table = Table::Sessions;
        }
    }
    for sort in &mut app.sort {
        sort.1 = args.reverse;
    }
    if let Some(table) = args.view {
        app.table = table;
    }
    app
}

/// Until it is ended; what was asked for by then is still done.
async fn follow(
    asked: Asked,
    mut app: App,
    mut screen: Screen,
    clock: impl Fn() -> Now,
) -> anyhow::Result<()> {
    let mut acting = JoinSet::new();
    let ended = show(asked, &mut app, &mut screen, &mut acting, &clock).await;
    drop(screen);
    ended?;
    let unread = app.note.take_if(|note| note.until.is_none()).map(|note| note.text);
    finish(acting, unread).await
}

type Acting = JoinSet<(Action, Result<(), String>)>;

async fn show(
    asked: Asked,
    app: &mut App,
    screen: &mut Screen,
    acting: &mut Acting,
    clock: &impl Fn() -> Now,
) -> anyhow::Result<()> {
    let look = Look::of(|name| std::env::var(name).ok());
    let target = asked.target.clone();
    let mut tick = tokio::time::interval(asked.refresh.min(Duration::from_secs(1)));
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let (to, mut from) = mpsc::channel(feed::WAITING);
    // Ends with this function.
    let mut feeding = JoinSet::new();
    feeding.spawn(feed::run(asked, to));
    let mut pressed = EventStream::new();
    let mut signals = Signals::new()?;
    // Something is on the screen before the sidecar has answered.
    screen.draw(|frame| view::draw(frame, app, look, clock()))?;
    let mut next = tokio::time::Instant::now();
    let mut changed = false;
    loop {
        let mut at_once = false;
        tokio::select! {
            event = pressed.next() => {
                // Without a keyboard nobody could end it.
                let Some(Ok(event)) = event else { return Ok(()) };
                match keys::handle(app, &event, clock()) {
                    Effect::None => {}
                    Effect::Quit => return Ok(()),
                    Effect::Stop => screen.stop()?,
                    Effect::Redraw => screen.enter()?,
                    Effect::Act(action) => {
                        let target = target.clone();
                        acting.spawn(async move {
                            let result = act::perform(target, action.clone()).await;
                            (action, result)
                        });
                    }
                }
                at_once = !keys::is_idle(&event);
            }
            Some(done) = acting.join_next(), if !acting.is_empty() => {
                let (action, result) = done?;
                app.done(&action, result, clock());
                at_once = true;
            }
            Some(fed) = from.recv() => {
                let now = clock();
                let first = !app.world.is_complete();
                app.hear(fed, now);
                for _ in 0..BATCH {
                    let Ok(fed) = from.try_recv() else { break };
                    app.hear(fed, now);
                }
                changed = true;
                at_once = first && app.world.is_complete();
            }
            Some(ended) = feeding.join_next() => return ended?,
            _ = tick.tick() => {
                app.tick(clock());
                changed = true;
            }
            () = tokio::time::sleep_until(next), if changed => at_once = true,
            signal = signals.next() => match signal {
                Signal::End => return Ok(()),
                Signal::Continued => {
                    screen.enter()?;
                    at_once = true;
                }
            },
        }
        if at_once {
            let began = Instant::now();
            screen.draw(|frame| view::draw(frame, app, look, clock()))?;
            // With very many rows it draws less often, rather than do nothing else.
            next = (began + FRAME.max(began.elapsed() * SHARE)).into();
            changed = false;
        }
    }
}

enum Signal {
    End,
    Continued,
}

struct Signals([tokio::signal::unix::Signal; 4], tokio::signal::unix::Signal);

impl Signals {
    fn new() -> std::io::Result<Self> {
        let ends = [
            signal(SignalKind::terminate())?,
            signal(SignalKind::hangup())?,
            signal(SignalKind::interrupt())?,
            signal(SignalKind::quit())?,
        ];
        Ok(Self(ends, signal(SignalKind::from_raw(rustix::process::Signal::CONT.as_raw()))?))
    }

    async fn next(&mut self) -> Signal {
        let Self([a, b, c, d], continued) = self;
        tokio::select! {
            _ = a.recv() => Signal::End,
            _ = b.recv() => Signal::End,
            _ = c.recv() => Signal::End,
            _ = d.recv() => Signal::End,
            _ = continued.recv() => Signal::Continued,
        }
    }
}

/// Waits for what was asked for and not answered yet, and says what failed and
/// was not read: there is no screen any more to show it on.
async fn finish(mut acting: Acting, unread: Option<String>) -> anyhow::Result<()> {
    let mut failed = Vec::from_iter(unread);
    while let Some(done) = acting.join_next().await {
        let (action, result) = done?;
        if let Err(problem) = result {
            failed.push(format!("could not {}: {problem}", action.describe()));
        }
    }
    anyhow::ensure!(failed.is_empty(), "{}", failed.join("\n"));
    Ok(())
}
