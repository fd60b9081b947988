//! A server under test: started, asked for what it used, ended.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use crate::generate::{Place, Protocol};

/// A running server.
pub struct Server {
    pub name: &'static str,
    pub place: Place,
    pub protocol: Protocol,
    child: Child,
}

/// What a process used so far.
#[derive(Clone, Copy, Default)]
pub struct Used {
    /// Nanoseconds on a CPU, all threads that live.
    pub cpu: u64,
}

impl Server {
    /// Starts it and waits for its socket.
    pub fn start(
        name: &'static str,
        command: &mut Command,
        place: Place,
        protocol: Protocol,
    ) -> io::Result<Self> {
        let log = fs::File::create(std::env::temp_dir().join(format!("bench-{name}.log")))?;
        let child = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?;
        let mut server = Self { name, place, protocol, child };
        let began = Instant::now();
        while !server.answers() {
            if let Some(status) = server.child.try_wait()? {
                return Err(io::Error::other(format!("{name} ended: {status}")));
            }
            if began.elapsed() > Duration::from_secs(30) {
                return Err(io::Error::other(format!("{name} did not listen within 30 s")));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(server)
    }

    fn answers(&self) -> bool {
        match &self.place {
            Place::Unix(path) => std::os::unix::net::UnixStream::connect(path).is_ok(),
            Place::Tcp(address) => std::net::TcpStream::connect(address).is_ok(),
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn used(&self) -> Used {
        used(self.pid())
    }

    /// Resident bytes.
    pub fn resident(&self) -> u64 {
        resident(self.pid())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn used(pid: u32) -> Used {
    let mut used = Used::default();
    if let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) {
        for task in tasks.flatten() {
            let line = fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
            used.cpu += line.split(' ').next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
        }
    }
    used
}

pub fn resident(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|line| line.trim().strip_suffix(" kB"))
        .and_then(|n| n.trim().parse::<u64>().ok())
        .map_or(0, |kib| kib * 1024)
}

/// The server on one core, the generator on the other, where there are two: what
/// is compared is what one core carries.
pub fn pinned(program: &Path) -> Command {
    if cores() < 2 {
        return Command::new(program);
    }
    let mut command = Command::new("taskset");
    command.args(["-c", "1"]).arg(program);
    command
}

pub fn pin_self() {
    if cores() >= 2 {
        let mut set = rustix::thread::CpuSet::new();
        set.set(0);
        let _ = rustix::thread::sched_setaffinity(None, &set);
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// A folder that goes with the value.
pub struct Folder(pub PathBuf);

impl Folder {
    pub fn new() -> Self {
        let path = std::env::temp_dir().join(format!("tenantd-bench-{}", std::process::id()));
        fs::create_dir_all(&path).expect("a folder");
        use std::os::unix::fs::PermissionsExt as _;
        let _ = fs::set_permissions(&path, fs::Permissions::from_mode(0o700));
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
