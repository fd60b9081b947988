//! How long a peer may keep its connection waiting.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::time::{Sleep, sleep};

/// With one connection.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Until the whole of HTTP/2's preface has come in: nothing pings a peer before,
    /// so that nothing else would miss it.
    pub hello: Duration,
    /// While it takes nothing of what is written. Its pings would tell, too, but a
    /// connection whose writes are stuck cannot be closed in words.
    pub stuck: Duration,
}

/// Length of HTTP/2's preface.
pub const PREFACE: usize = 24;

/// A wait that may not last: measured from its first moment, and made only then,
/// since most never come to wait.
pub struct Wait {
    most: Duration,
    what: &'static str,
    since: Option<Pin<Box<Sleep>>>,
}

impl Wait {
    /// At most so long; `what` is told at its end.
    #[must_use]
    pub const fn new(most: Duration, what: &'static str) -> Self {
        Self { most, what, since: None }
    }

    /// Still waiting: pending, or the error at its end.
    pub fn on<T>(&mut self, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        let most = self.most;
        ready!(self.since.get_or_insert_with(|| Box::pin(sleep(most))).as_mut().poll(context));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, self.what)))
    }

    /// It went on.
    pub fn over(&mut self) {
        self.since = None;
    }

    /// Goes on with what `polled` gave.
    pub fn watch<T>(
        &mut self,
        polled: Poll<io::Result<T>>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        if polled.is_pending() {
            return self.on(context);
        }
        self.over();
        polled
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test]
    async fn a_wait_ends_with_its_words_and_begins_anew_after_it_went_on() {
        let mut wait = Wait::new(Duration::from_millis(1), "nothing came");
        let said = poll_fn(|context| wait.watch::<()>(Poll::Pending, context)).await.unwrap_err();
        assert_eq!(
            (said.kind(), said.to_string().as_str()),
            (io::ErrorKind::TimedOut, "nothing came")
        );
        assert!(poll_fn(|context| wait.watch(Poll::Ready(Ok(())), context)).await.is_ok());
        assert!(wait.since.is_none(), "what went on is not held against it");
    }
}
