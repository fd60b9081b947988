//! The ceiling: a tonic server that does nothing but answer, with prost replies of
//! the same size. Stock, or behind a socket that does not claim vectored writes.

use std::{
    io,
    path::Path,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{UnixListener, UnixStream},
};
use tokio_stream::{Stream, StreamExt as _, wrappers::UnixListenerStream};
use tonic::{
    Request, Response, Status, Streaming,
    transport::{Server, server::Connected},
};

use crate::{
    messages,
    v1::{
        self,
        session_service_server::{SessionService, SessionServiceServer},
    },
};

struct Noop(v1::AcquireSessionResponse);

type Never<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl SessionService for Noop {
    async fn acquire_session(
        &self,
        _: Request<v1::AcquireSessionRequest>,
    ) -> Result<Response<v1::AcquireSessionResponse>, Status> {
        Ok(Response::new(self.0.clone()))
    }

    async fn renew_session(
        &self,
        _: Request<v1::RenewSessionRequest>,
    ) -> Result<Response<v1::RenewSessionResponse>, Status> {
        Ok(Response::new(v1::RenewSessionResponse { session: self.0.session.clone() }))
    }

    async fn release_session(
        &self,
        _: Request<v1::ReleaseSessionRequest>,
    ) -> Result<Response<v1::ReleaseSessionResponse>, Status> {
        Ok(Response::new(v1::ReleaseSessionResponse { outcome: 1 }))
    }

    async fn report_failure(
        &self,
        _: Request<v1::ReportFailureRequest>,
    ) -> Result<Response<v1::ReportFailureResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn get_session_config(
        &self,
        _: Request<v1::GetSessionConfigRequest>,
    ) -> Result<Response<v1::GetSessionConfigResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    type KeepAliveStream = Never<v1::KeepAliveResponse>;

    async fn keep_alive(
        &self,
        _: Request<Streaming<v1::KeepAliveRequest>>,
    ) -> Result<Response<Self::KeepAliveStream>, Status> {
        Err(Status::unimplemented(""))
    }

    type WorkStream = Never<v1::WorkResponse>;

    async fn work(
        &self,
        _: Request<Streaming<v1::WorkRequest>>,
    ) -> Result<Response<Self::WorkStream>, Status> {
        Err(Status::unimplemented(""))
    }

    type PublishEventsStream = Never<v1::PublishEventsResponse>;

    async fn publish_events(
        &self,
        _: Request<Streaming<v1::PublishEventsRequest>>,
    ) -> Result<Response<Self::PublishEventsStream>, Status> {
        Err(Status::unimplemented(""))
    }
}

/// A socket that says of itself that it is not vectored: h2 then gathers small
/// frames into one buffer instead of writing each by itself.
struct Gathered(UnixStream);

impl Connected for Gathered {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Gathered {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Gathered {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// Serves for ever.
pub fn serve(path: &Path, gathered: bool) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let incoming = UnixListenerStream::new(UnixListener::bind(path).expect("a free path"));
        let service = SessionServiceServer::new(Noop(messages::granted()));
        let server = Server::builder().add_service(service);
        let served = if gathered {
            server.serve_with_incoming(incoming.map(|socket| socket.map(Gathered))).await
        } else {
            server.serve_with_incoming(incoming).await
        };
        served.expect("serves");
    });
}
