//! Watches the whole log as an operator's dashboard would: from a cursor, on a
//! connection that breaks.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use tenantd::wire::v1::{self, watch_service_client::WatchServiceClient};
use tokio::{sync::Notify, task::JoinHandle};

use crate::{bare::channel, config::KEY, model::Model};

pub struct Watcher {
    pub model: Arc<Mutex<Model>>,
    broken: Arc<Mutex<Vec<String>>>,
    cut: Arc<Notify>,
    task: JoinHandle<()>,
}

impl Watcher {
    pub fn start(socket: PathBuf, model: Model) -> Self {
        let model = Arc::new(Mutex::new(model));
        let broken: Arc<Mutex<Vec<String>>> = Arc::default();
        let cut = Arc::new(Notify::new());
        let (of, wrong, cutting) = (Arc::clone(&model), Arc::clone(&broken), Arc::clone(&cut));
        let task = tokio::spawn(async move {
            loop {
                tokio::select! {
                    () = watch(&socket, &of, &wrong) => {}
                    () = cutting.notified() => {}
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        Self { model, broken, cut, task }
    }

    /// Breaks the connection; it comes back with its cursor.
    pub fn cut(&self) {
        self.cut.notify_one();
    }

    /// Promises that were broken so far.
    pub fn broken(&self) -> Vec<String> {
        self.broken.lock().unwrap().clone()
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn watch(socket: &Path, model: &Mutex<Model>, broken: &Mutex<Vec<String>>) {
    let cursor = model.lock().unwrap().begin();
    let asked = v1::WatchSessionsRequest { cursor, ..Default::default() };
    let mut calls = WatchServiceClient::new(channel(socket.to_owned()));
    let mut items = match calls.watch_sessions(asked).await {
        Ok(items) => items.into_inner(),
        Err(refused) => {
            if crate::bare::reason(&refused) != "UNAVAILABLE" {
                broken.lock().unwrap().push(format!("the watch is refused: {refused:?}"));
            }
            return;
        }
    };
    while let Ok(Some(item)) = items.message().await {
        if format!("{item:?}").contains(KEY) {
            broken.lock().unwrap().push(format!("the watch shows a key: {item:?}"));
        }
        let Some(item) = item.item else { continue };
        if let Err(why) = model.lock().unwrap().take(item) {
            broken.lock().unwrap().push(why);
        }
    }
}
