//! What a service manager is told, where one listens (`NOTIFY_SOCKET`): that the
//! sidecar serves, reloads, drains, and that it still answers.

use std::{sync::Arc, time::Duration};

use sd_notify::NotifyState;
use tokio::time::MissedTickBehavior;

use crate::app::Sidecar;

/// Beyond the drain's deadline: streams close, and the last figures are sent.
const END_TIME: Duration = Duration::from_secs(20);

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "the service manager was not told");
    }
}

/// It serves.
pub fn ready(sidecar: &Sidecar) {
    let tenants = sidecar.config().tenants.len();
    tell(&[NotifyState::Ready, NotifyState::Status(&format!("serves; {tenants} tenants"))]);
}

/// It reads its config; [`ready`] says that it is done.
pub fn reloading() {
    // Newer service managers want the time with it.
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(_) => tell(&[NotifyState::Reloading]),
    }
}

/// Tells when it drains, with the time that it will need, and in between that it
/// answers. Runs as long as the sidecar.
pub async fn follow(sidecar: Arc<Sidecar>) {
    let mut began = sidecar.on_drain();
    let told = async {
        if let Ok(Some(drain)) = began.wait_for(Option::is_some).await.map(|drain| *drain) {
            let time = (drain.deadline + END_TIME).as_micros();
            tell(&[
                NotifyState::Stopping,
                NotifyState::ExtendTimeoutUsec(u32::try_from(time).unwrap_or(u32::MAX)),
                NotifyState::Status(&format!("drains, for at most {:?}", drain.deadline)),
            ]);
        }
        std::future::pending::<()>().await;
    };
    tokio::join!(told, watchdog(&sidecar));
}

/// A sidecar whose state cannot be reached says nothing, and is restarted.
async fn watchdog(sidecar: &Sidecar) {
    let Some(within) = sd_notify::watchdog_enabled() else { return };
    let mut tick = tokio::time::interval((within / 3).max(Duration::from_millis(10)));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let _live = sidecar.live().await;
        tell(&[NotifyState::Watchdog]);
    }
}
