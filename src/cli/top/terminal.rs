//! The terminal, taken over and always given back: at the end, on an error, on
//! a panic of any thread, and while stopped as a job.

use std::{
    io::{self, Stdout, Write as _},
    sync::Once,
};

use crossterm::{
    cursor,
    event::{DisableBracketedPaste, DisableMouseCapture, EnableBracketedPaste, EnableMouseCapture},
    execute, terminal,
};
use ratatui::{Terminal, backend::CrosstermBackend, layout::Rect};

/// It, while taken over.
pub struct Screen(Terminal<CrosstermBackend<Stdout>>);

impl Screen {
    /// Takes it over.
    ///
    /// # Errors
    /// When it is none.
    pub fn take() -> io::Result<Self> {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let say = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                // First, or the words are lost with the other screen.
                give_back();
                say(panic);
            }));
        });
        let screen = Self(Terminal::new(CrosstermBackend::new(io::stdout()))?);
        enter().inspect_err(|_| give_back())?;
        Ok(screen)
    }

    /// Draws on it.
    ///
    /// # Errors
    /// When it is gone.
    pub fn draw(&mut self, by: impl FnOnce(&mut ratatui::Frame)) -> io::Result<()> {
        self.0.draw(by).map(drop)
    }

    /// Stops the process as Ctrl-Z does, and goes on when it is continued.
    ///
    /// # Errors
    /// When the terminal is gone then.
    pub fn stop(&mut self) -> io::Result<()> {
        give_back();
        // The whole job: what it is piped to is stopped with it.
        let _ = rustix::process::kill_current_process_group(rustix::process::Signal::TSTP);
        self.enter()
    }

    /// Takes it over again: after others had it, or to draw all of it anew.
    ///
    /// # Errors
    /// When it is gone.
    pub fn enter(&mut self) -> io::Result<()> {
        enter()?;
        // Not `clear`: it asks the terminal where the cursor is, and the answer
        // would be taken for keys by who waits for those.
        let size = self.0.size()?;
        self.0.resize(Rect::new(0, 0, size.width, size.height))
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        give_back();
    }
}

fn enter() -> io::Result<()> {
    // A shell that had the terminal meanwhile has set it back: what crossterm
    // takes for raw is not.
    let _ = terminal::disable_raw_mode();
    terminal::enable_raw_mode()?;
    execute!(
        io::stdout(),
        terminal::EnterAlternateScreen,
        EnableMouseCapture,
        EnableBracketedPaste,
        cursor::Hide
    )
}

fn give_back() {
    let _ = execute!(
        io::stdout(),
        DisableBracketedPaste,
        DisableMouseCapture,
        terminal::LeaveAlternateScreen,
        cursor::Show
    );
    let _ = terminal::disable_raw_mode();
    let _ = io::stdout().flush();
}
