//! A private, throw-away PostgreSQL cluster: own folder and port, on 127.0.0.1 only. It can be stopped, killed,
//! frozen and started again on the same data.
//!
//! The postmaster is our own child, not `pg_ctl`'s: after a kill it is reaped at once, and a start isn't fooled by
//! the lock file of a zombie.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use super::certificates::Certificates;
use super::ports::free_port;
use super::{Databases, log_tail, newest};
use crate::process::{Process, Signal, Watchdog, new_folder};
use crate::wait::wait_until;

/// A start takes 0.2 s; recovery after a kill under load may take longer.
const START_LIMIT: Duration = Duration::from_secs(60);
/// A fast shutdown takes 0.1 s and one checkpoint.
const STOP_LIMIT: Duration = Duration::from_secs(60);

/// How the cluster is to be.
#[derive(Debug, Clone, Default)]
pub struct PostgresOptions {
    /// Write through to the disk. Off is faster and still survives every kill of a process, only not of the machine.
    pub fsync: bool,
    /// Accept TLS too, with a certificate of [`Postgres::ca_file`].
    pub tls: bool,
    /// Further lines of `postgresql.conf`, such as `("max_connections", "20")`.
    pub settings: Vec<(&'static str, String)>,
}

/// One cluster. Dropping it ends it and removes its folder.
#[derive(Debug)]
pub struct Postgres {
    folder: PathBuf,
    programs: PathBuf,
    postmaster: Option<Process>,
    port: u16,
    certificates: Option<Certificates>,
    watchdog: Arc<Watchdog>,
}

impl Postgres {
    /// The newest installation's `bin` folder.
    pub fn installed() -> Option<PathBuf> {
        newest(&["/usr/lib/postgresql"], "", "bin/postgres")
            .and_then(|server| server.parent().map(Path::to_path_buf))
            .or_else(|| {
                let path = std::env::var_os("PATH")?;
                std::env::split_paths(&path).find(|folder| folder.join("initdb").exists())
            })
    }

    /// Makes a cluster and starts it; about 2 s.
    ///
    /// # Panics
    /// If PostgreSQL isn't installed or doesn't start (with the end of its log).
    pub async fn start(options: PostgresOptions) -> Self {
        let programs = Self::installed().expect(
            "PostgreSQL isn't installed: run scripts/install-servers, or install postgresql",
        );
        let folder = new_folder("postrider-postgres-");
        let watchdog = Watchdog::start(Some(&folder));
        if let Some((user, group)) = postgres_user() {
            chown(&folder, Some(user), Some(group)).expect("root may");
        }
        let mut postgres = Self {
            programs,
            port: free_port(),
            certificates: options.tls.then(|| Certificates::write(&folder)),
            folder,
            postmaster: None,
            watchdog,
        };
        postgres.create_cluster(&options);
        postgres.start_again().await;
        postgres
    }

    /// The URL of a database; user postgres, no password. `sslmode` is left to the caller.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    /// `127.0.0.1:PORT`, for a proxy.
    pub fn address(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.port).into()
    }

    /// The certificate of the authority that signed the server's.
    ///
    /// # Panics
    /// Without the option `tls`.
    pub fn ca_file(&self) -> &Path {
        &self
            .certificates
            .as_ref()
            .expect("started with tls")
            .ca_file
    }

    /// Makes an empty database and returns its URL.
    ///
    /// # Panics
    /// If the server refuses.
    pub async fn create_database(&self, name: &str) -> String {
        self.databases().create(name, None).await
    }

    /// Makes a database as a copy of another one, which nobody may be connected to.
    ///
    /// # Panics
    /// If the server refuses.
    pub async fn create_database_from(&self, name: &str, template: &str) -> String {
        self.databases().create(name, Some(template)).await
    }

    /// Makes and drops databases.
    pub fn databases(&self) -> Databases {
        Databases::new(&self.url("postgres"))
    }

    /// Starts the server on what data it has; after a kill as soon as the sessions of the one before have ended.
    ///
    /// # Panics
    /// If it runs, or isn't up within 60 s (with the end of its log).
    pub async fn start_again(&mut self) {
        assert!(self.postmaster.is_none(), "the server runs");
        let up = wait_until(START_LIMIT, "Postgres's start", async || {
            let postmaster = self.start_once().await;
            // Until the last session of a killed one has ended, its memory is in use.
            let log = self.log();
            let too_early = log.contains("pre-existing shared memory block");
            assert!(
                postmaster.is_some() || too_early,
                "Postgres ended at once.\n{log}"
            );
            postmaster
        })
        .await;
        self.postmaster = Some(up);
    }

    /// Starts it and waits until it answers; none if it ended instead.
    async fn start_once(&self) -> Option<Process> {
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.log_file())
            .expect("our own folder");
        let mut command = self.command("postgres");
        command
            .arg("-D")
            .arg(self.folder.join("data"))
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log);
        let mut postmaster = Process::start("Postgres", &mut command, Arc::clone(&self.watchdog));
        let databases = self.databases();
        let address = self.address();
        let up = wait_until(START_LIMIT, "Postgres's answer", async || {
            if postmaster.exit_status().is_some() {
                return Some(false);
            }
            // Asked only once the port is open: a refused connection is the usual answer and cheap.
            (TcpStream::connect(address).is_ok() && databases.answer().await).then_some(true)
        })
        .await;
        up.then_some(postmaster)
    }

    /// Stops it in its "fast" mode: sessions are ended, a checkpoint is written.
    ///
    /// # Panics
    /// If it doesn't run, or takes longer than 60 s.
    pub async fn stop(&mut self) {
        let mut postmaster = self.postmaster.take().expect("the server runs");
        postmaster.signal(Signal::INT);
        postmaster.wait(STOP_LIMIT).await;
    }

    /// Kills the postmaster with SIGKILL and reaps it; its sessions notice and end within milliseconds.
    pub fn kill(&mut self) {
        drop(self.postmaster.take());
    }

    /// Stops all its processes in their tracks: connections stay open, nothing answers.
    pub fn freeze(&self) {
        self.running().signal_all(Signal::STOP);
    }

    /// Lets it go on after [`freeze`](Self::freeze).
    pub fn thaw(&self) {
        self.running().signal_all(Signal::CONT);
    }

    /// The processor time that its processes have used since the start.
    pub fn cpu_time(&self) -> Duration {
        self.running().cpu_time_all()
    }

    /// The end of the server's log, for a test that failed.
    pub fn log(&self) -> String {
        log_tail(&self.log_file())
    }

    fn log_file(&self) -> PathBuf {
        self.folder.join("postgres.log")
    }

    fn running(&self) -> &Process {
        self.postmaster.as_ref().expect("the server runs")
    }

    /// One of PostgreSQL's programs, as a user that it accepts: it refuses to run as root.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.programs.join(program));
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("TZ", "UTC")
            .env("LC_ALL", "C.UTF-8")
            .current_dir(&self.folder);
        if let Some((user, group)) = postgres_user() {
            command.uid(user).gid(group);
        }
        command
    }

    fn create_cluster(&self, options: &PostgresOptions) {
        let data = self.folder.join("data");
        let made = self
            .command("initdb")
            .arg("-D")
            .arg(&data)
            .args([
                "-U",
                "postgres",
                "-A",
                "trust",
                "-E",
                "UTF8",
                "--locale=C.UTF-8",
            ])
            .args(["--no-sync"])
            .stdin(Stdio::null())
            .output()
            .expect("initdb lies beside postgres");
        assert!(
            made.status.success(),
            "initdb failed: {}",
            String::from_utf8_lossy(&made.stderr)
        );
        let config = data.join("postgresql.conf");
        let text = fs::read_to_string(&config).expect("initdb wrote it") + &self.settings(options);
        fs::write(config, text).expect("our own folder");
    }

    fn settings(&self, options: &PostgresOptions) -> String {
        // synchronous_commit stays on: without it a kill loses the commits of the last half second.
        // dynamic shared memory in files of the folder: a kill would leave it behind in /dev/shm.
        let durable = if options.fsync { "on" } else { "off" };
        let mut text = format!(
            "\nlisten_addresses = '127.0.0.1'\n\
             port = {}\n\
             unix_socket_directories = ''\n\
             max_connections = 200\n\
             shared_buffers = 64MB\n\
             dynamic_shared_memory_type = mmap\n\
             fsync = {durable}\n\
             full_page_writes = {durable}\n\
             jit = off\n\
             logging_collector = off\n",
            self.port
        );
        if let Some(certificates) = &self.certificates {
            self.give_key_to_server(&certificates.key_file);
            text += &format!(
                "ssl = on\nssl_cert_file = '{}'\nssl_key_file = '{}'\n",
                certificates.cert_file.display(),
                certificates.key_file.display()
            );
        }
        for (name, value) in &options.settings {
            text += &format!("{name} = '{value}'\n");
        }
        text
    }

    /// Postgres refuses a key that others may read.
    fn give_key_to_server(&self, key_file: &Path) {
        fs::set_permissions(key_file, fs::Permissions::from_mode(0o600)).expect("our own file");
        if let Some((user, group)) = postgres_user() {
            chown(key_file, Some(user), Some(group)).expect("root may");
        }
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the end of Postgres's log\n{}", self.log());
        }
    }
}

/// Ids of the user `postgres`, if we are root and need it.
fn postgres_user() -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let users = fs::read_to_string("/etc/passwd").ok()?;
    let line = users.lines().find(|line| line.starts_with("postgres:"))?;
    let mut fields = line.split(':').skip(2);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}
